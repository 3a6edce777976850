"""The SGLang server as the loop to the console sees it; rank 0 only."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

from torch import Tensor

from serving.engine.api import EngineSlowError, EngineStats, LoadedDraft, SwapError, SwapOutcome
from serving.engine.pins import Pins
from serving.engine.versions import Served, Versions
from serving.sglang_backend.assembler import Assembler
from serving.sglang_backend.control import ControlPolicy
from serving.sglang_backend.events import Applied
from serving.sglang_backend.ranks import NOT_YET, Answer, Command, RankSwapper
from serving.sglang_backend.roll_call import RollCall
from serving.sglang_backend.weights import DraftMemory
from speculators import checkpoint
from speculators.checkpoint import CheckpointError, OtherLayersError

log = logging.getLogger(__name__)

# For the scheduler to take up a command: above what SGLang's own watchdog lets a turn take (300 s, unless it is told
# otherwise), so that a scheduler that is only slow is never given up.
TURN_SECONDS = 600.0
WORTH_SAYING_SECONDS = 5.0  # that a command waits
RECORD_SECONDS = 30.0  # for the assembler to come to a swap that was carried out
READY_SECONDS = 60.0  # for every rank to read a checkpoint, or its own memory back
ASK_AGAIN_SECONDS = 0.05
TARGET_SECONDS = 0.5  # between questions whether every rank has read its part of the target again
PROBE_STEPS = 64
PINS_OBEYED = ("no_training",)
PINS_DETAIL = "SGLang 0.5.21 drafts for a batch as a whole: no request in it can have a lookahead of its own, or none"
NO_CONTROL = "this server cannot decode without speculation: SGLang could not build that state, see its log"
OTHER_LOOKAHEAD = "the server drafts up to {} tokens a step, as it was launched; another number needs a launch"


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A checkpoint in host memory."""

    sha256: str
    uri: str
    state: dict[str, Tensor]


class SglangEngine:
    """FollowedEngine over one scheduler. Commands leave through ``outbox``, which a hook empties into SGLang's turn."""

    def __init__(
        self,
        swapper: RankSwapper,
        roll: RollCall,
        versions: Versions[Weights],
        assembler: Assembler,
        policy: ControlPolicy | None,
        aux_layer_ids: tuple[int, ...],
        pins: Pins,
        *,
        num_drafts: int,  # of a step at most, as the server was launched
        no_control: str = NO_CONTROL,  # why, where there is no policy, or it cannot be obeyed
    ) -> None:
        self.swapper = swapper
        self.roll = roll
        self.versions = versions
        self.assembler = assembler
        self.policy = policy
        self.num_drafts = num_drafts
        self.no_control = no_control
        self.aux_layer_ids = aux_layer_ids
        self.pins = pins
        self.outbox: deque[Command] = deque()
        # Of the target's weights on all ranks; "" = not read since the last swap. A change that was found stays said.
        self.target_sha256 = ""
        self._first_target = ""  # the first that was read
        self.ranks: tuple[str, ...] = ()  # what each of them said about its memory at the last swap
        self.num_errors = 0
        self._proof = (versions.live.version, versions.live.sha256)  # a version, and what was found in memory for it
        self._no_policy = ""  # why some rank cannot decode without drafts; "" = none has said so
        self._applying: dict[int, Applied] = {}  # by ticket
        self._ticket = 0
        self._asked = ("", 0.0)  # the command that waits for the scheduler, "" = none, and since when (monotonic)
        self._protocol = threading.RLock()  # one conversation with the ranks at a time
        self._share = 0.0
        self._max_lookahead: int | None = None  # None = the console has not said
        self._target_is_due = threading.Event()
        self._target_is_due.set()
        threading.Thread(target=self._watch_target, name="target-ranks", daemon=True).start()

    # -- calls of the follower, on its threads ----------------------------------------------------------------------

    def load_draft(self, directory: Path, expected_sha256: str | None = None) -> Weights:
        config, state = checkpoint.load(directory, expected_sha256)
        if config.aux_layer_ids != self.aux_layer_ids:
            ids = f"it reads layers {config.aux_layer_ids}, this server captures {self.aux_layer_ids}"
            raise OtherLayersError(f"{directory}: {ids}; start the server with a draft of the new lineage")
        self.swapper.memory.check(state)
        return Weights(expected_sha256 or checkpoint.state_digest(state), str(directory), state)

    def swap(self, version: int, draft: LoadedDraft | None, *, min_accept_length: float = 0.0) -> Future[SwapOutcome]:
        assert draft is None or isinstance(draft, Weights)
        return _done(lambda: self._change(Applied(Served(version, draft), min_accept_length)))

    def revert(self, detail: str) -> Future[SwapOutcome]:
        return _done(lambda: self._revert(detail))

    def set_policy(self, *, control_share: float | None = None, max_lookahead: int | None = None) -> None:
        if control_share is not None and not 0.0 <= control_share <= 1.0:
            raise ValueError(f"control_share={control_share!r}: must lie between 0 and 1")
        if max_lookahead is not None and max_lookahead < 0:
            raise ValueError(f"max_lookahead={max_lookahead!r}: must be 0 or more")
        self._share = self._share if control_share is None else control_share
        self._max_lookahead = self._max_lookahead if max_lookahead is None else max_lookahead
        with self._protocol:
            self._send_policy(self.versions.live.draft is not None)

    @property
    def policy_detail(self) -> str:
        """What of the target's policy this server does not do, and why; "" = it does all."""
        said = []
        if why := self._no_control:
            refused = [f"control share {self._share:g}"] * bool(self._share)
            refused += ["largest lookahead 0"] * (self._max_lookahead == 0)
            said += [f"{' and '.join(refused)}: {why}"] * bool(refused)
        if self._max_lookahead and self._max_lookahead < self.num_drafts:
            said.append(f"largest lookahead {self._max_lookahead}: {OTHER_LOOKAHEAD.format(self.num_drafts)}")
        return "; ".join(said)

    @property
    def _no_control(self) -> str:
        is_available = self.policy is not None and self.policy.is_available
        return self._no_policy if is_available else self.no_control

    def stats(self) -> EngineStats:
        versions, assembler = self.versions, self.assembler
        live, previous, probe = versions.live, versions.previous, versions.probe
        version, in_memory = self._proof
        return EngineStats(
            version=live.version,
            sha256=in_memory if live.draft is not None and live.version == version else "",
            previous=previous.version if previous else None,
            num_running=assembler.num_running,
            num_waiting=0,
            num_finished=assembler.num_finished,
            num_verify_steps=assembler.num_steps,
            num_proposed_drafts=assembler.num_proposed,
            num_correct_drafts=assembler.num_correct,
            num_accept_tokens=assembler.num_accepted,
            num_errors=self.num_errors + assembler.num_errors,
            probe=probe.snapshot() if probe else None,
            reverted_from=versions.reverted_from,
            revert_detail=versions.revert_detail,
            domains=(),
            waits_for=self._waits_for,
        )

    @property
    def _waits_for(self) -> str:
        kind, since = self._asked
        seconds = time.monotonic() - since
        is_worth_saying = bool(kind) and seconds >= WORTH_SAYING_SECONDS
        return f"the scheduler has not taken up {kind!r} for {seconds:.0f} s" if is_worth_saying else ""

    # -- calls of other threads -------------------------------------------------------------------------------------

    def collapsed(self, detail: str) -> None:
        """The assembler's verdict on the live version: revert, without making the assembler wait."""
        given = (self.versions.live, detail)
        threading.Thread(target=self._revert_collapsed, args=given, name="revert", daemon=True).start()

    def applied(self, command: Command) -> Applied:
        """What a command that has just been carried out means for the versions; scheduler's thread."""
        return self._applying[command.ticket]

    # -- the target's weights ---------------------------------------------------------------------------------------

    def _watch_target(self) -> None:
        """After each swap, and beside it: the fingerprint of every rank.

        The console compares each report with the replica's first one and raises an alert when they differ.
        """
        while True:
            self._target_is_due.wait()
            self._target_is_due.clear()
            try:
                found = self._target_on_all_ranks()
            except SwapError:
                self.num_errors += 1
                log.exception("the target's weights could not be compared; after the next swap again")
                found = ""
            self._first_target = self._first_target or found
            is_changed = bool(found) and found != self._first_target
            if is_changed:
                log.error("the target's weights changed: %s at first, %s after a swap", self._first_target, found)
            is_outdated = self._target_is_due.is_set()  # a swap came in while it was read
            self.target_sha256 = "" if is_outdated and not is_changed else found

    def _target_on_all_ranks(self) -> str:
        """One fingerprint over those of all ranks, "" when one cannot read its part; swaps may come in between."""
        while True:
            with self._protocol:
                lines = self._command("target").lines
            if NOT_YET not in lines:
                return hashlib.sha256(" ".join(lines).encode()).hexdigest() if lines and all(lines) else ""
            time.sleep(TARGET_SECONDS)

    # -- the conversation with the ranks ----------------------------------------------------------------------------

    def _revert_collapsed(self, collapsed: Served[Weights], detail: str) -> None:
        try:
            with self._protocol:
                if self.versions.live is collapsed:  # else the swap that this has waited for has replaced it
                    self._revert(detail)
        except Exception:
            self.num_errors += 1
            log.exception("the revert of version %d failed", collapsed.version)

    def _revert(self, detail: str) -> SwapOutcome:
        with self._protocol:
            previous = self.versions.previous
            if previous is None:
                raise LookupError(f"version {self.versions.live.version} has no previous version in memory")
            outcome = self._change(Applied(previous, detail=detail))
        if outcome.sha256 != previous.sha256:
            raise SwapError(f"in memory is {outcome.sha256}, version {previous.version} is {previous.sha256}")
        return outcome

    def _change(self, change: Applied) -> SwapOutcome:
        """Bring weights into service on all ranks, and say what is in memory then. Raises SwapError."""
        with self._protocol:
            previous = self.versions.live
            milliseconds = self._apply(change) if change.served.draft else self._switch_off(change)
            self._await_version(change.served)
            self._target_is_due.set()
            if self.target_sha256 == self._first_target:
                self.target_sha256 = ""
            in_memory = self._in_memory(change.served)
            self._proof = (change.served.version, in_memory)
            return SwapOutcome(change.served.version, in_memory, previous.version, milliseconds)

    def _in_memory(self, served: Served[Weights]) -> str:
        """The version's checksum where every rank holds it, else what the others say; "" without a draft."""
        wrong = [f"rank {rank}: {line}" for rank, line in enumerate(self.ranks) if line != served.sha256]
        if served.draft is None or not wrong:
            return served.sha256
        return ", ".join(wrong) if len(self.ranks) > 1 else self.ranks[0]

    def _apply(self, change: Applied) -> float:
        draft = change.served.draft
        assert draft is not None
        self.swapper.offer(draft.sha256, draft.state)
        self._command("prepare", sha256=draft.sha256, uri=draft.uri)
        answer = self._once_ready("apply", change, sha256=draft.sha256, version=change.served.version)
        if any(answer.lines):
            raise SwapError("; ".join(line for line in answer.lines if line))
        self._send_policy(True)
        self.ranks = self._proved_lines()
        return answer.milliseconds

    def _proved_lines(self) -> tuple[str, ...]:
        """What each rank has found in its memory, or why it is not known: the weights are there, right or wrong.

        Raises EngineSlowError: that the scheduler stands still is no finding about them.
        """
        try:
            return self._once_ready("prove").lines or ("no proof: see the server's log",)
        except EngineSlowError:
            raise
        except SwapError as error:
            return (f"no proof: {error}",)

    def _switch_off(self, change: Applied) -> float:
        self._send_policy(False)
        if why := self._no_control:
            raise SwapError(why)
        self.assembler.queue.put(change)
        self.ranks = ()
        return 0.0

    def _await_version(self, served: Served[Weights]) -> None:
        """Until the assembler has come to the change: the steps before it belong to the version before."""
        deadline = time.monotonic() + RECORD_SECONDS
        while self.versions.live.version != served.version or self.versions.live.sha256 != served.sha256:
            if time.monotonic() > deadline:
                raise SwapError("the swap was carried out, but its record has not come through")
            time.sleep(0.005)

    def _send_policy(self, is_speculating: bool) -> None:
        """Every rank obeys, or none: where one cannot decode without drafts, the others must not."""
        wants = is_speculating and self._max_lookahead != 0
        if self.policy is None or self._no_control:
            return
        if (self.policy.control_share, self.policy.is_speculating) != (self._share, wants):
            lines = self._command("policy", control_share=self._share, is_speculating=wants).lines
            self._no_policy = "; ".join(f"rank {rank}: {line}" for rank, line in enumerate(lines) if line)

    def _once_ready(self, kind: str, change: Applied | None = None, **given: Any) -> Answer:
        """A command that the ranks agree on, asked again while one of them is still reading or proving.

        They have their time from the first answer on, which says that the scheduler turns.
        """
        deadline = 0.0
        while True:
            answer = self._command(kind, change, **given)
            if NOT_YET not in answer.lines:
                return answer
            deadline = deadline or time.monotonic() + READY_SECONDS
            if time.monotonic() > deadline:
                slow = ", ".join(str(rank) for rank, line in enumerate(answer.lines) if line == NOT_YET)
                raise SwapError(f"rank {slow}: not ready to {kind} within {READY_SECONDS:.0f} s")
            time.sleep(ASK_AGAIN_SECONDS)

    def _await_all_ranks(self) -> None:
        """Until every rank takes commands. Raises SwapError, naming the rank, when one does not."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            lines = self.roll.lines()
            if away := [f"rank {rank} runs without Aurora: {line}" for rank, line in enumerate(lines) if line]:
                raise SwapError("; ".join(away))
            if None not in lines:
                return
            if time.monotonic() > deadline:
                silent = f"it has said nothing within {READY_SECONDS:.0f} s; is AURORA_CONSOLE_URL set for it?"
                raise SwapError(f"rank {lines.index(None)} runs without Aurora: {silent}")
            time.sleep(ASK_AGAIN_SECONDS)

    def _command(self, kind: str, change: Applied | None = None, **given: Any) -> Answer:
        """Send and wait for rank 0's answer; answers of commands that were given up are thrown away."""
        self._await_all_ranks()
        self._ticket += 1
        ticket = self._ticket
        if change is not None:
            self._applying = {ticket: change}
        command = Command(kind, ticket, **given)
        self._asked = (kind, time.monotonic())
        self.outbox.append(command)
        try:
            return self._answer(command)
        finally:
            self._asked = ("", 0.0)

    def _answer(self, command: Command) -> Answer:
        """Raises EngineSlowError."""
        deadline = time.monotonic() + TURN_SECONDS
        while True:
            try:
                answer = self.swapper.answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                with contextlib.suppress(ValueError, IndexError):  # it is being taken up just now
                    self.outbox.remove(command)  # what is given up is not to be done later, beside what is done then
                too_slow = f"the scheduler did not take up {command.kind!r} within {TURN_SECONDS:.0f} s"
                raise EngineSlowError(too_slow) from None
            if answer.ticket == command.ticket:
                return answer


def launched(memory: DraftMemory, uri: str) -> Weights:
    """What SGLang was launched with: of several ranks each holds a part, the file the whole, if it is one of ours."""
    if memory.size > 1:
        try:
            _, state = checkpoint.load(Path(uri))
            if memory.holds(state):
                return Weights(checkpoint.state_digest(state), uri, state)
        except CheckpointError as error:
            log.warning("nothing can return to the draft of the launch: %s", error)
    state = {name: tensor.clone().cpu() for name, tensor in memory.state().items()}
    return Weights(checkpoint.state_digest(state), uri, state)


def _done(work: Any) -> Future[SwapOutcome]:
    """The work is done on the caller's thread; the future says how it went."""
    future: Future[SwapOutcome] = Future()
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001  belongs to whoever waits for the future
        future.set_exception(error)
    return future
