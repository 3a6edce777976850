"""Makes the engine serve what is desired, on a thread of its own: that may take minutes, and the loop reports on.

One piece of work at a time; what came of it is read by the loop, which alone keeps the replica's state.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serving.engine.api import (
    DamagedDraftError,
    EngineStats,
    FollowedEngine,
    LoadedDraft,
    SwapError,
    SwapOutcome,
)
from serving.trace.policy import PolicyFollower
from speculators import checkpoint
from speculators.checkpoint import OtherLayersError
from speculators.records import DesiredState

log = logging.getLogger(__name__)

SWAP_TIMEOUT_SECONDS = 60.0
Kind = Literal["swap", "restore", "policy"]  # a restore is a swap to what served before, which nobody has to hear of


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Something desired that the engine is being given, or was given."""

    desired: DesiredState
    kind: Kind
    before: EngineStats  # when it began
    # Of a swap whether the engine had reverted by itself when it ended; of a policy whether it holds. Else what it
    # failed with.
    outcome: Future[bool]

    @property
    def is_swap(self) -> bool:
        return self.kind != "policy"

    def is_done_within(self, seconds: float) -> bool:
        """Wait for it; whether it has ended."""
        return bool(concurrent.futures.wait([self.outcome], seconds).done)


class SwapWorker:
    """The thread, and the drafts that it has read."""

    def __init__(self, engine: FollowedEngine, policy: PolicyFollower, target_config: dict[str, Any]) -> None:
        self.engine = engine
        self.policy = policy
        self.target_config = target_config
        self.swap_ms = 0.0  # of the last swap
        self.other_layers = ""  # why what the engine captures is for another draft than the desired one; "" = it is not
        self._drafts: dict[str, LoadedDraft] = {}  # by digest: the live and the previous one, as in the engine

    def begin(self, desired: DesiredState, kind: Kind, on_done: Callable[[], None]) -> Work:
        """Start on it; ``on_done`` is called on the thread, after the outcome is there."""
        work = Work(desired, kind, self.engine.stats(), Future())
        work.outcome.add_done_callback(lambda _: on_done())
        threading.Thread(target=self._run, args=(work,), name="swap", daemon=True).start()
        return work

    def _run(self, work: Work) -> None:
        try:
            found = self._swap_to(work.desired) if work.is_swap else self.policy.follow(work.desired)
        except Exception as error:  # noqa: BLE001  belongs to the loop, which reads the outcome
            work.outcome.set_exception(error)
        else:
            work.outcome.set_result(found)

    def _swap_to(self, desired: DesiredState) -> bool:
        self.policy.follow(desired, is_unsure=True)
        try:
            if not is_served(desired, self.engine.stats()):
                self._swap(desired)
        except OtherLayersError as error:
            self.other_layers = str(error)
            raise
        self.other_layers = ""
        return self.engine.stats().reverted_from is not None

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
        self.swap_ms = outcome.swap_ms
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


def is_served(desired: DesiredState, stats: EngineStats) -> bool:
    return stats.version == desired.version and stats.sha256 == desired.sha256
