"""The replica's side of a target's policy: control share and largest lookahead, as the console says at each poll."""

from __future__ import annotations

import logging
import time

from serving.engine.api import FollowedEngine, SwapError
from serving.trace.console import Backoff
from speculators.records import DesiredState

log = logging.getLogger(__name__)

MOST_SECONDS = 600.0  # between two tries to have the engine take what it did not take


class PolicyFollower:
    """Hands both to the engine when they change, whatever becomes of versions, and says why the newest do not hold."""

    def __init__(self, engine: FollowedEngine) -> None:
        self.engine = engine
        self.detail = ""  # for the report; "" = the engine has taken the newest
        self._held: tuple[float, int] | None = None
        self._refused: tuple[float, int] | None = None
        self._backoff = Backoff(MOST_SECONDS)
        self._next_try = 0.0  # monotonic

    def holds(self, desired: DesiredState) -> bool:
        """Whether the engine has these values."""
        return _wanted(desired) == self._held

    def is_due(self, desired: DesiredState) -> bool:
        """Whether the engine is to be told, now."""
        is_refused = _wanted(desired) == self._refused and time.monotonic() < self._next_try
        return not self.holds(desired) and not is_refused

    def follow(self, desired: DesiredState, *, is_unsure: bool = False) -> bool:
        """Have the engine take new values; whether it has them now. What it does not take is tried again.

        ``is_unsure``: it may have lost what it had, so it is told in any case.
        """
        if not is_unsure and not self.is_due(desired):
            return self.holds(desired)
        wanted = _wanted(desired)
        if wanted not in (self._held, self._refused):
            self.detail = f"{_told(wanted)}: the engine has not taken them up"
        self._held = None
        try:
            self.engine.set_policy(control_share=desired.control_share, max_lookahead=desired.lookahead)
        except Exception as error:  # noqa: BLE001  whatever it is: the report says it, and no swap fails over it
            self._refuse(wanted, error)
            return False
        self._held, self._refused, self.detail = wanted, None, ""
        self._backoff.succeeded()
        return True

    def _refuse(self, wanted: tuple[float, int], error: Exception) -> None:
        told = f"{_told(wanted)}: {error}"
        if told != self.detail:
            log.error("%s", told, exc_info=not isinstance(error, (SwapError, ValueError)))
        self._refused, self.detail = wanted, told
        self._next_try = time.monotonic() + self._backoff.failed()


def _wanted(desired: DesiredState) -> tuple[float, int]:
    return desired.control_share, desired.lookahead


def _told(wanted: tuple[float, int]) -> str:
    return f"control share {wanted[0]:g} and largest lookahead {wanted[1]} do not hold yet"
