"""Reports what the replica runs and follows what the console desires: one call a second does both.

A new generation is loaded on this thread beside the running version, handed to the engine, and proved: the next report
carries the checksum of what is in memory, then the accept length of the first steps. The console being away changes
nothing; the last version that served well is on disk, so a restart without the console serves it. An engine in another
process may be started again on its own: then it stands where a new replica stands, and follows from there.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.engine.api import (
    DamagedDraftError,
    EngineAwayError,
    EngineSlowError,
    EngineStats,
    FollowedEngine,
    LoadedDraft,
    SwapError,
    SwapOutcome,
)
from serving.trace.console import Backoff, ConsoleClient, ConsoleError, Interval
from serving.trace.desired_file import DesiredFile
from serving.trace.identity import Beside, Identity
from serving.trace.pins import PinFollower
from serving.trace.policy import PolicyFollower
from speculators import checkpoint
from speculators.checkpoint import CheckpointError, OtherLayersError
from speculators.records import Announcement, DesiredState, ObservedState, RecordError

log = logging.getLogger(__name__)

SWAP_TIMEOUT_SECONDS = 60.0
REFUSED = (400, 413, 422)  # the console's answers that find fault with the report itself


class Follower:
    """The loop between one engine and the console."""

    def __init__(
        self,
        engine: FollowedEngine,
        client: ConsoleClient,
        identity: Identity,
        target_config: dict[str, Any],
        file: DesiredFile,
        pins: PinFollower,
        beside: Callable[[], Beside],
        interval_seconds: float = 1.0,
    ) -> None:
        self.engine = engine
        self.client = client
        self.identity = identity
        self.target_config = target_config
        self.file = file
        self.pins = pins
        self.policy = PolicyFollower(engine)
        self.beside = beside
        self.interval_seconds = interval_seconds
        self.num_failed_reports = 0
        self._generation = 0  # last one acted on
        self._state = "starting"
        self._detail = ""
        self._swap_ms = 0.0
        self._good: DesiredState | None = None  # live, as far as known
        self._before: DesiredState | None = None  # live before that: what the engine reverts to
        self._is_revert_answered = False  # the console has desired something since the engine's own revert
        self._is_lost = False  # the engine has lost what it served, and nothing has been followed since
        self._drafts: dict[str, LoadedDraft] = {}  # by digest: the live and the previous one, as in the engine
        self._backoff = Backoff(most_seconds=5.0)
        self._slow = Backoff()
        self._put_off = (0, 0.0)  # a generation that the engine was too slow for, and until when (monotonic)
        self._is_away = False
        self.other_layers = ""  # why what the engine captures is for another draft than the desired one; "" = it is not
        self._interval = Interval()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def restore(self) -> None:
        """Serve what served well before the restart; call once, before ``start``."""
        self.pins.restore()
        desired = self.file.read()
        if desired is None:
            return
        if desired.target != self.identity.target:
            log.warning("%s is about target %r, ignored", self.file.path, desired.target)
            return
        self._follow(desired)
        if self._state == "swap_failed":  # it may be gone for good, as pruned ones are: start as a new replica does
            self._generation, self._state = 0, "starting"
            what = f"version {desired.version} served before the restart, and cannot be restored"
            self._detail = f"{what}: {self._detail}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._interval.stop()
        self._thread.join(5.0)

    def observed(self) -> ObservedState:
        """What is true now, in texts that the console takes."""
        stats = self.engine.stats()
        beside = self._beside_now(stats)
        state, detail = self._state_now(stats)
        found = ObservedState(
            replica=self.identity.replica,
            target=self.identity.target,
            engine=self.identity.engine,
            url=self.identity.url,
            host=self.identity.host,
            generation=self._generation,
            version=stats.version,
            sha256=stats.sha256,
            state=state,
            detail=detail,
            swap_ms=self._swap_ms,
            probe_accept_length=stats.probe.accept_length if stats.probe else 0.0,
            probe_num_steps=stats.probe.num_steps if stats.probe else 0,
            num_running=stats.num_running,
            reported_at=time.time(),
            pins_revision=self.engine.pins.desired.revision,
            pins_obeyed=self.engine.pins.obeyed,
            pins_detail=self.pins.detail,
            step_seconds=stats.step_seconds,
            **dataclasses.asdict(beside),
        )
        return found.fitting()

    def _beside_now(self, stats: EngineStats) -> Beside:
        beside = self.beside()
        beside = dataclasses.replace(beside, policy_detail=self.policy.detail or beside.policy_detail)
        if self.other_layers and beside.capture_state == "working":
            beside = dataclasses.replace(beside, capture_state="broken", capture_detail=self.other_layers)
        if beside.num_verify_steps is not None:
            return beside
        return dataclasses.replace(
            beside, num_verify_steps=stats.num_verify_steps, num_accept_tokens=stats.num_accept_tokens
        )

    def _run(self) -> None:
        wait = 0.0
        while self._interval.sleep(wait):
            try:
                wait = self._turn()
            except Exception:
                log.exception("the loop to the console failed; it goes on")
                wait = self._backoff.failed()

    def _turn(self) -> float:
        """Report, read intent, act; returns seconds until the next turn."""
        self.file.catch_up()
        self._keep_reverted()
        stats = self._notice_loss()
        try:
            desired = self._report()
        except (ConsoleError, RecordError) as error:
            if self._is_lost and not stats.away:
                self.restore()
            return self._failed(error)
        self._backoff.succeeded()
        if self._is_away:
            log.info("console is back")
            self._is_away = False
        self.pins.follow(desired.pins)
        if stats.away:
            return self.interval_seconds
        if self._state == "starting":
            self._state, self._detail = "serving", ""
        if desired.generation in (0, self._generation):
            self._follow_policy(desired)
            return self.interval_seconds
        if not self._is_put_off(desired):
            self._announce_swap()
            self._follow(desired)
            return 0.0  # the proof goes out at once
        return self.interval_seconds

    def _report(self) -> DesiredState:
        """Say what is true and hear what is desired. Raises ConsoleError, RecordError.

        A report that the console finds fault with is followed by its core: that a swap has failed must be heard.
        """
        found = self.observed()
        try:
            return DesiredState.from_json(self._post(found))
        except ConsoleError as error:
            if error.status not in REFUSED:
                raise
            log.error("the console refuses a report, it gets the core of it: %s", error)
            return DesiredState.from_json(self._post(found.core(f"the console refused the whole report: {error}")))

    def _post(self, observed: ObservedState) -> Any:
        return self.client.post("ingest/observed", json.dumps(observed.to_json()).encode())

    def _failed(self, error: Exception) -> float:
        self.num_failed_reports += 1
        if not self._is_away:
            log.warning(
                "the console takes no report; serving goes on with version %d: %s", self.engine.stats().version, error
            )
            self._is_away = True
        if isinstance(error, ConsoleError) and error.status == 404 and self.identity.model_path:
            self._announce_itself()
        return self._backoff.failed()

    def _announce_itself(self) -> None:
        """Tell a console without a target of this name what is served here, so that a person can register it."""
        try:
            self.client.post("ingest/announce", json.dumps(self._announcement().to_json()).encode())
        except ConsoleError as error:
            log.info("could not announce this server to the console: %s", error)

    def _announcement(self) -> Announcement:
        who = self.identity
        return Announcement(
            replica=who.replica,
            target=who.target,
            engine=who.engine,
            url=who.url,
            model_path=who.model_path,
            draft_path=who.draft_path,
            aux_layer_ids=who.aux_layer_ids,
            config=self.target_config,
            reported_at=time.time(),
        )

    def _announce_swap(self) -> None:
        """Tell the console that loading has begun; nobody depends on it."""
        self._state, self._detail = "swapping", self._detail if self._state == "swapping" else ""
        try:
            self._post(self.observed())
        except ConsoleError as error:
            log.info("could not report that a swap begins: %s", error)

    def _follow(self, desired: DesiredState) -> None:
        """Make the engine serve what is desired, or say why it does not."""
        before, self._generation, self._is_lost = self._generation, desired.generation, False
        try:
            self.policy.follow(desired, is_unsure=True)
            if not _is_served(desired, self.engine.stats()):
                self._swap(desired)
        except EngineAwayError as error:
            self._lose(str(error))
            return
        except EngineSlowError as error:
            self._generation = before
            self._try_later(desired, str(error))
            return
        except Exception as error:  # whatever it is: the console must hear of it, and undo the swap
            if isinstance(error, OtherLayersError):
                self.other_layers = str(error)
            is_known = isinstance(error, (SwapError, CheckpointError))
            log.error("version %d is not served: %s", desired.version, error, exc_info=not is_known)
            self._state, self._detail = "swap_failed", str(error) if is_known else f"{type(error).__name__}: {error}"
            return
        self._slow.succeeded()
        self._is_revert_answered = self.engine.stats().reverted_from is not None
        self._state, self._detail, self.other_layers = "serving", "", ""
        if self._good is None or self._good.version != desired.version:
            self._before = self._good
        self._good = desired
        self.file.write(desired)

    def _try_later(self, desired: DesiredState, why: str) -> None:
        """Nothing is wrong with the version: the replica is behind until the engine takes it up."""
        log.warning("version %d is tried again: %s", desired.version, why)
        self._state, self._detail = "swapping", f"version {desired.version} is tried again: {why}"
        self._put_off = (desired.generation, time.monotonic() + self._slow.failed())

    def _is_put_off(self, desired: DesiredState) -> bool:
        generation, until = self._put_off
        return desired.generation == generation and time.monotonic() < until

    def _follow_policy(self, desired: DesiredState) -> None:
        """The version stays; a restart without the console finds the newest policy beside the last good version."""
        if not self.policy.follow(desired):
            return
        good, self._before = (
            found and dataclasses.replace(found, control_share=desired.control_share, lookahead=desired.lookahead)
            for found in (self._good, self._before)
        )
        if good is not None and good != self._good:
            self._good = good
            self.file.write(good)

    def _swap(self, desired: DesiredState) -> None:
        has_waited = desired.sha256 in self._drafts
        draft = self._draft(desired) if desired.version else None
        try:
            future = self.engine.swap(desired.version, draft, min_accept_length=desired.min_accept_length)
            outcome = future.result(timeout=SWAP_TIMEOUT_SECONDS)
        except DamagedDraftError as error:
            self._drafts.pop(desired.sha256, None)
            if not has_waited:
                raise
            log.warning("version %d is read again: %s", desired.version, error)
            return self._swap(desired)
        except SwapError:
            self._drafts.pop(desired.sha256, None)  # what was read may be what is wrong
            raise
        self._swap_ms = outcome.swap_ms
        log.info("generation %d: version %d in %.1f ms", desired.generation, outcome.version, outcome.swap_ms)
        if outcome.sha256 != (desired.sha256 if desired.version else ""):
            self._drafts.pop(desired.sha256, None)  # what was read may be what is wrong
            detail = f"in memory is {outcome.sha256 or 'nothing'}, desired {desired.sha256 or 'nothing'}"
            raise SwapError(detail + self._taken_back(outcome, detail))

    def _taken_back(self, outcome: SwapOutcome, detail: str) -> str:
        """Return to the version before; what to add to the report where that is not possible."""
        if outcome.previous is None:
            return "; there is no version to return to"
        try:
            self.engine.revert(detail).result(timeout=SWAP_TIMEOUT_SECONDS)
        except Exception as error:
            log.exception("version %d does not come back", outcome.previous)
            return f"; version {outcome.previous} does not come back: {type(error).__name__}: {error}"
        return ""

    def _draft(self, desired: DesiredState) -> LoadedDraft:
        """Load and check the checkpoint, unless it is in memory already: a rollback reads no file."""
        draft = self._drafts.pop(desired.sha256, None)
        if draft is None:
            directory = Path(desired.uri)
            problems = checkpoint.config_problems(checkpoint.read_config(directory), self.target_config)
            if problems:
                raise SwapError(f"{directory} does not fit the target: " + "; ".join(problems))
            draft = self.engine.load_draft(directory, desired.sha256)
        self.other_layers = ""
        kept = list(self._drafts.items())[-1:]
        self._drafts = {**dict(kept), desired.sha256: draft}
        return draft

    def _state_now(self, stats: EngineStats) -> tuple[str, str]:
        if stats.away and self._state != "swap_failed":
            return "starting", stats.away
        if self._state == "serving" and stats.reverted_from is not None and not self._is_revert_answered:
            return "reverted", f"version {stats.reverted_from}: {stats.revert_detail}"
        return self._state, self._detail

    def _notice_loss(self) -> EngineStats:
        """What the engine says; whether it is away, or back with other weights than it was given, is acted on.

        A swap that failed stays reported as such: it may be why the engine is away.
        """
        stats = self.engine.stats()
        is_serving = self._state == "serving" and stats.reverted_from is None
        if stats.away and self._state != "swap_failed":
            self._lose(stats.away)
        elif is_serving and self._good is not None and not _is_served(self._good, stats):
            self._lose(f"version {self._good.version} is gone: the engine was started again, or changed by another")
        return stats

    def _lose(self, why: str) -> None:
        """Nothing that was followed holds any more, and what is desired is to be followed anew."""
        if why != self._detail:
            log.warning("%s", why)
        self._generation, self._state, self._detail = 0, "starting", why
        self._good = self._before = None
        self._is_lost = True

    def _keep_reverted(self) -> None:
        """After the engine's own revert, a restart must not serve the collapsed version again."""
        stats = self.engine.stats()
        is_reverted = stats.reverted_from is not None and self._good is not None
        if is_reverted and self._good and self._good.version == stats.reverted_from:
            log.error("version %s was reverted: %s", stats.reverted_from, stats.revert_detail)
            self._good = self._before
            self.file.write(self._good)


def _is_served(desired: DesiredState, stats: EngineStats) -> bool:
    return stats.version == desired.version and stats.sha256 == desired.sha256
