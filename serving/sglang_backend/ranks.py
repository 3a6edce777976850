"""A swap on every tensor-parallel rank at the same step.

Rank 0 puts commands among the requests that SGLang itself broadcasts to its ranks at the top of each scheduler turn, so
that every rank meets a command at the same turn without a collective of ours per step. Only where the ranks must agree
(apply, prove, or look at the target) do they gather a line each over SGLang's own CPU group; with one rank that costs
nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from torch import Tensor

from serving.sglang_backend.copies import recorded
from serving.sglang_backend.weights import DraftMemory, TargetWatch
from speculators import checkpoint

log = logging.getLogger(__name__)

NOT_YET = "not yet"  # a rank's line while its reading or proving goes on: rank 0 asks again, the scheduler never waits
KEPT = 3  # in host memory: live, previous, prepared


@dataclass(frozen=True, slots=True)
class Command:
    """An order from rank 0, broadcast by SGLang with its requests."""

    kind: str  # "prepare" | "apply" | "prove" | "target" | "policy"
    ticket: int
    sha256: str = ""
    uri: str = ""
    version: int = 0
    control_share: float = 0.0
    is_speculating: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a command, on rank 0."""

    ticket: int
    # One per rank: "" = fine, or what is wrong; for "prove" and "target" its checksum. () = nothing to agree on, or a
    # failure on rank 0.
    lines: tuple[str, ...]
    milliseconds: float = 0.0


class RankGroup(Protocol):
    """The ranks of one tensor-parallel group."""

    @property
    def size(self) -> int: ...

    def gather(self, line: str) -> tuple[str, ...]:
        """Every rank's line, in rank order, on every rank; all ranks must call it at the same turn."""


class CpuGroup:
    """RankGroup over a torch.distributed group of the CPU (SGLang's ``tp_cpu_group``)."""

    def __init__(self, group: Any, size: int) -> None:
        self._group = group
        self.size = size

    def gather(self, line: str) -> tuple[str, ...]:
        if self.size == 1:
            return (line,)
        import torch.distributed

        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, line, group=self._group)
        return tuple(found)


@dataclass(slots=True)
class Prepared:
    """A checkpoint read on a rank."""

    state: dict[str, Tensor]
    payload: list[tuple[str, Tensor]] | None  # on the draft's device, from "prepare" until it has been copied


class RankSwapper:
    """One rank's side: reads in the background, copies between two steps, proves in the background.

    ``on_applied`` is called on the scheduler's thread right before the copy, which ``between_steps`` surrounds;
    ``on_policy`` with every policy command that all ranks can obey: ``no_policy`` says why this one cannot. Answers of
    commands go to ``answers``, which only rank 0 reads. ``target`` is set when the target is loaded.

    Besides what serves, only the checkpoint of the swap at work is on the device: where there is no room for it, that
    swap fails, and no other does.
    """

    def __init__(
        self,
        memory: DraftMemory,
        group: RankGroup,
        on_applied: Callable[[Command], None],
        on_policy: Callable[[Command], None],
        between_steps: Callable[[], Any] = nullcontext,
        no_policy: Callable[[], str] = str,
    ) -> None:
        self.memory = memory
        self.group = group
        self.on_applied = on_applied
        self.on_policy = on_policy
        self.between_steps = between_steps
        self.no_policy = no_policy
        self.target: TargetWatch | None = None
        self.answers: SimpleQueue[Answer] = SimpleQueue()
        self._prepared: dict[str, Future[Prepared]] = {}
        self._proof: Future[str] | None = None

    def offer(self, sha256: str, state: dict[str, Tensor]) -> None:
        """Rank 0's own, which it has read already. Raises what staging raises, out of memory for one."""
        self._let_go()
        self._keep(sha256, _settled(Prepared(state, self.memory.staged(state))))

    def handle(self, command: Command) -> None:
        """On the scheduler's thread, at the same turn on every rank."""
        started = time.perf_counter()
        lines: tuple[str, ...] = ()
        try:
            lines = self._carry_out(command)
        finally:  # whoever has sent it need not wait to hear that it failed here: no proof will follow
            self.answers.put(Answer(command.ticket, lines, (time.perf_counter() - started) * 1e3))

    def _carry_out(self, command: Command) -> tuple[str, ...]:
        if command.kind == "prepare":
            self._prepare(command)
            return ()
        if command.kind == "apply":
            return self._apply(command)
        if command.kind == "prove":
            return self.group.gather(self._proved())
        if command.kind == "target":
            return self.group.gather(self._target_line())
        lines = self.group.gather(self.no_policy())
        if not any(lines):
            self.on_policy(command)
        return lines

    def _proved(self) -> str:
        if self._proof is None:
            return f"no proof: rank {self.memory.rank} has applied nothing"
        if not self._proof.done():
            return NOT_YET
        try:
            return self._proof.result()
        except Exception as error:
            log.exception("the proof failed")
            return f"no proof: {type(error).__name__}: {error}"

    def _target_line(self) -> str:
        if self.target is None:
            return ""
        return self.target.sha256 if self.target.is_settled else NOT_YET

    def _prepare(self, command: Command) -> None:
        found = self._prepared.get(command.sha256)
        if found is not None and not found.done():
            return
        known = _known(found)
        if known is None or known.payload is None:  # a file that could not be read may have come by now
            self._let_go()
            self._keep(command.sha256, _in_background(lambda: self._read(command, known)))

    def _read(self, command: Command, known: Prepared | None) -> Prepared:
        if known is not None:
            return Prepared(known.state, self.memory.staged(known.state))
        _, state = checkpoint.load(Path(command.uri), command.sha256)
        self.memory.check(state)
        return Prepared(state, self.memory.staged(state))

    def _apply(self, command: Command) -> tuple[str, ...]:
        prepared, problem = self._ready(command.sha256)
        lines = self.group.gather(problem)
        if prepared is None or prepared.payload is None or any(lines):
            return lines
        self._proof = None  # of what is about to be overwritten: a copy that fails leaves this rank without one
        self.on_applied(command)
        try:
            with self.between_steps():
                self.memory.load(prepared.payload)
                ready = _mark(self.memory)
        except Exception as error:
            self._proof = _settled(f"no proof: the copy failed: {type(error).__name__}: {error}")
            raise
        if self.target is not None:
            self.target.look()
        self._keep(command.sha256, _settled(Prepared(prepared.state, None)))
        self._proof = _in_background(lambda: self._prove(command, prepared, ready))
        return lines

    def _ready(self, sha256: str) -> tuple[Prepared | None, str]:
        """What this rank has prepared, or why it has not."""
        future = self._prepared.get(sha256)
        if future is None:
            return None, f"rank {self.memory.rank}: version {sha256[:12]} was never prepared"
        if not future.done():
            return None, NOT_YET
        try:
            prepared = future.result()
        except Exception as error:  # noqa: BLE001  whatever it is, the ranks must hear of it
            return None, f"rank {self.memory.rank}: {type(error).__name__}: {error}"
        if prepared.payload is None:
            return None, f"rank {self.memory.rank}: version {sha256[:12]} was not prepared again"
        return prepared, ""

    def _prove(self, command: Command, prepared: Prepared, ready: Any) -> str:
        """``prepared`` lives as long as this thread: what is being copied must not be given back before it is."""
        if ready is not None:
            ready.synchronize()  # this thread's wait, not the scheduler's
        return self.memory.digest(prepared.state, command.sha256)

    def _keep(self, sha256: str, future: Future[Prepared]) -> None:
        self._prepared.pop(sha256, None)
        self._prepared[sha256] = future
        while len(self._prepared) > KEPT:
            del self._prepared[next(iter(self._prepared))]

    def _let_go(self) -> None:
        """Room for what is about to be staged: a swap that came to nothing may have left its own on the device."""
        for sha256, future in list(self._prepared.items()):
            if (found := _known(future)) is not None:
                self._prepared[sha256] = _settled(Prepared(found.state, None))


def _mark(memory: DraftMemory) -> Any:
    """An event behind the copy on a GPU, else None."""
    return recorded() if memory.device.type == "cuda" else None


def _known(future: Future[Prepared] | None) -> Prepared | None:
    """What was read; None while that goes on, or when it failed."""
    return future.result() if future is not None and future.done() and future.exception() is None else None


def _settled(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def _in_background(work: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001  the future hands it on, without frames that keep what was staged
            future.set_exception(error.with_traceback(None))

    threading.Thread(target=run, name="weights", daemon=True).start()
    return future
