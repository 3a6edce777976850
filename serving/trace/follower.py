"""Reports what the replica runs and follows what the console desires: one call a second does both.

A new generation is loaded beside the running version, handed to the engine, and proved: the next report carries the
checksum of what is in memory, then the accept length of the first steps. However long the engine takes over it, on a
thread of its own, reports go on, and nothing newer is followed before it is done or given up. The console being away
changes nothing; the last version that served well is on disk, so a restart without the console serves it. An engine in
another process may be started again on its own: then it stands where a new replica stands, and follows from there.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from serving.engine.api import EngineAwayError, EngineSlowError, EngineStats, FollowedEngine, SwapError
from serving.trace.console import Backoff, ConsoleClient, ConsoleError, Interval
from serving.trace.desired_file import DesiredFile
from serving.trace.identity import Beside, Identity
from serving.trace.pins import PinFollower
from serving.trace.policy import PolicyFollower
from serving.trace.swap_worker import SWAP_TIMEOUT_SECONDS, Kind, SwapWorker, Work, is_served
from speculators.checkpoint import CheckpointError
from speculators.records import Announcement, DesiredState, ObservedState, RecordError

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0  # for a turn, and a swap, to come to their end
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
        self.worker = SwapWorker(engine, self.policy, target_config)
        self.beside = beside
        self.interval_seconds = interval_seconds
        self.num_failed_reports = 0
        self._generation = 0  # last one acted on
        self._state = "starting"
        self._detail = ""
        self._good: DesiredState | None = None  # live, as far as known
        self._before: DesiredState | None = None  # live before that: what the engine reverts to
        self._is_revert_answered = False  # the console has desired something since the engine's own revert
        self._is_lost = False  # the engine has lost what it served, and nothing has been followed since
        self._work: Work | None = None  # what the engine is being given
        self._late: Work | None = None  # what it was too slow for: tried again after ``_late_until`` (monotonic)
        self._late_until = 0.0
        self._backoff = Backoff(most_seconds=5.0)
        self._slow = Backoff()
        self._is_away = False
        self._interval = Interval()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    @property
    def other_layers(self) -> str:
        """Why what the engine captures is for another draft than the desired one; "" = it is not."""
        return self.worker.other_layers

    def restore(self, patience_seconds: float = SWAP_TIMEOUT_SECONDS) -> None:
        """Serve what served well before the restart; call once, before ``start``.

        What the engine has not taken up after ``patience_seconds`` goes on while the loop reports.
        """
        self.pins.restore()
        desired = self.file.read()
        if desired is None:
            return
        if desired.target != self.identity.target:
            log.warning("%s is about target %r, ignored", self.file.path, desired.target)
            return
        work = self._begin(desired, "restore")
        if work.is_done_within(patience_seconds):
            self._settle(work)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._interval.stop()
        deadline = time.monotonic() + STOP_SECONDS
        self._thread.join(STOP_SECONDS)
        if (work := self._work) is not None:
            work.is_done_within(max(0.0, deadline - time.monotonic()))

    def observed(self) -> ObservedState:
        """What is true now, in texts that the console takes."""
        stats = self._stats_now()
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
            swap_ms=self.worker.swap_ms,
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

    def _stats_now(self) -> EngineStats:
        """What the engine says; of a version that is on its way nothing, as long as it is not proved."""
        stats, work = self.engine.stats(), self._work
        if work is None or not work.is_swap:
            return stats
        before = work.before
        return dataclasses.replace(stats, version=before.version, sha256=before.sha256, probe=before.probe)

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
        """Report, read intent, act; returns seconds until the next turn. The end of a swap begins one at once."""
        if (work := self._work) is not None:
            if not work.outcome.done():
                return self._turn_meanwhile()
            self._settle(work)
        self.file.catch_up()
        self._keep_reverted()
        stats = self._notice_loss()
        try:
            desired = self._heard()
        except (ConsoleError, RecordError) as error:
            if not stats.away:
                self._go_on_alone()
            return self._failed(error)
        if stats.away:
            return self.interval_seconds
        if self._state == "starting":
            self._state, self._detail = "serving", ""
        if desired.generation in (0, self._generation):
            self._keep_version(desired)
        elif not self._is_put_off(desired):
            self._announce_swap()
            self._begin(desired, "swap")
        return self.interval_seconds

    def _turn_meanwhile(self) -> float:
        """While the engine is being given something: nothing newer is followed, but for pins, which take no swap."""
        try:
            self._heard()
        except (ConsoleError, RecordError) as error:
            return self._failed(error)
        return self.interval_seconds

    def _heard(self) -> DesiredState:
        """Report; what the console desires. Raises as ``_report`` does."""
        desired = self._report()
        self._backoff.succeeded()
        if self._is_away:
            log.info("console is back")
            self._is_away = False
        self.pins.follow(desired.pins)
        return desired

    def _go_on_alone(self) -> None:
        """While the console is away: what was lost comes back, and what the engine was too slow for is tried again."""
        if self._is_lost:
            self.restore(patience_seconds=0.0)
        elif self._late is not None and time.monotonic() >= self._late_until:
            self._begin(self._late.desired, self._late.kind)

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

    def _begin(self, desired: DesiredState, kind: Kind) -> Work:
        """Have the engine given what is desired."""
        if kind != "policy":
            self._state, self._is_lost = "swapping", False
        self._work = self.worker.begin(desired, kind, self._interval.wake)
        return self._work

    def _settle(self, work: Work) -> None:
        """What came of it: the engine serves what was desired, or the next report says why it does not."""
        self._work = self._late = None
        try:
            is_reverted = work.outcome.result()
        except EngineAwayError as error:
            self._lose(str(error))
        except EngineSlowError as error:
            self._try_later(work, str(error))
        except Exception as error:  # noqa: BLE001  whatever it is: the console must hear of it, and undo the swap
            self._note_failure(work, error)
        else:
            if work.is_swap:
                self._note_served(work.desired, is_reverted)

    def _note_served(self, desired: DesiredState, is_reverted: bool) -> None:
        self._slow.succeeded()
        self._is_revert_answered = is_reverted
        self._generation, self._state, self._detail = desired.generation, "serving", ""
        if self._good is None or self._good.version != desired.version:
            self._before = self._good
        self._good = desired
        self.file.write(desired)

    def _note_failure(self, work: Work, error: Exception) -> None:
        desired, is_known = work.desired, isinstance(error, (SwapError, CheckpointError))
        log.error("version %d is not served: %s", desired.version, error, exc_info=None if is_known else error)
        why = str(error) if is_known else f"{type(error).__name__}: {error}"
        if work.kind == "restore":  # it may be gone for good, as pruned ones are: start as a new replica does
            what = f"version {desired.version} served before the restart, and cannot be restored"
            self._generation, self._state, self._detail = 0, "starting", f"{what}: {why}"
        else:
            self._generation, self._state, self._detail = desired.generation, "swap_failed", why

    def _try_later(self, work: Work, why: str) -> None:
        """Nothing is wrong with the version: the replica is behind until the engine takes it up."""
        version = work.desired.version
        log.warning("version %d is tried again: %s", version, why)
        self._state, self._detail = "swapping", f"version {version} is tried again: {why}"
        self._late, self._late_until = work, time.monotonic() + self._slow.failed()

    def _is_put_off(self, desired: DesiredState) -> bool:
        is_late = self._late is not None and self._late.desired.generation == desired.generation
        return is_late and time.monotonic() < self._late_until

    def _keep_version(self, desired: DesiredState) -> None:
        """The version stays; a restart without the console finds the newest policy beside the last good version."""
        if self._state == "swapping":  # to what nobody desires any more
            self._late, self._state, self._detail = None, "serving", ""
        if self.policy.is_due(desired):
            self._begin(desired, "policy")
        elif self.policy.holds(desired):
            self._keep_policy(desired)

    def _keep_policy(self, desired: DesiredState) -> None:
        good, self._before = (
            found and dataclasses.replace(found, control_share=desired.control_share, lookahead=desired.lookahead)
            for found in (self._good, self._before)
        )
        if good is not None and good != self._good:
            self._good = good
            self.file.write(good)

    def _state_now(self, stats: EngineStats) -> tuple[str, str]:
        if stats.away and self._state != "swap_failed":
            return "starting", stats.away
        if self._state == "serving" and stats.reverted_from is not None and not self._is_revert_answered:
            return "reverted", f"version {stats.reverted_from}: {stats.revert_detail}"
        if self._state == "swapping" and self._work is not None and stats.waits_for:
            return "swapping", f"version {self._work.desired.version} is on its way: {stats.waits_for}"
        return self._state, self._detail

    def _notice_loss(self) -> EngineStats:
        """What the engine says; whether it is away, or back with other weights than it was given, is acted on.

        A swap that failed stays reported as such: it may be why the engine is away.
        """
        stats = self.engine.stats()
        is_serving = self._state == "serving" and stats.reverted_from is None
        if stats.away and self._state != "swap_failed":
            self._lose(stats.away)
        elif is_serving and self._good is not None and not is_served(self._good, stats):
            self._lose(f"version {self._good.version} is gone: the engine was started again, or changed by another")
        return stats

    def _lose(self, why: str) -> None:
        """Nothing that was followed holds any more, and what is desired is to be followed anew."""
        if why != self._detail:
            log.warning("%s", why)
        self._generation, self._state, self._detail = 0, "starting", why
        self._good = self._before = self._late = None
        self._is_lost = True

    def _keep_reverted(self) -> None:
        """After the engine's own revert, a restart must not serve the collapsed version again."""
        stats = self.engine.stats()
        is_reverted = stats.reverted_from is not None and self._good is not None
        if is_reverted and self._good and self._good.version == stats.reverted_from:
            log.error("version %s was reverted: %s", stats.reverted_from, stats.revert_detail)
            self._good = self._before
            self.file.write(self._good)
