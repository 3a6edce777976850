"""Drafts that are off are watched: what they would say of tokens that the target has made anyway.

Verifying drafts in order to learn whether they would pass is dear just where they don't pay. A draft's guesses at
committed tokens need no pass of the target, and one of the draft tells of many positions at once. So a small share of
the time goes there, and speculation comes back by itself when its first drafts would pass often enough.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Many

from serving.engine.acceptance import Acceptance
from serving.engine.sequence import Sequence
from serving.engine.stepper import Stepper

SHARE = 0.003  # of the time of steps
MOST_POSITIONS, LEAST_POSITIONS = 16, 4  # of one look


class Watch:
    """When to look, and at which request of a step."""

    def __init__(self) -> None:
        self._saved = 0.0  # seconds, for the next look
        self._needed = 0.0  # by the last one

    def save(self, step_seconds: float) -> None:
        """A step has run."""
        self._saved = min(self._saved + SHARE * step_seconds, self._needed)

    def look(self, off: Many[Sequence], acceptances: Many[Acceptance], stepper: Stepper) -> float:
        """Where it is time, count what the draft of one of these requests would have said; the seconds it took.

        ``off``: requests of a step that draft nothing though they might; ``acceptances``: of each one's domain.
        """
        chosen = most_telling(off, acceptances) if self._saved >= self._needed else None
        if chosen is None:
            return 0.0
        sequence, acceptance, started = off[chosen], acceptances[chosen], time.perf_counter()
        acceptance.watch(stepper.look(sequence, min(MOST_POSITIONS, sequence.num_watchable)))
        acceptance.steps_off = 0
        self._saved, self._needed = 0.0, time.perf_counter() - started
        return self._needed


def most_telling(off: Many[Sequence], acceptances: Many[Acceptance]) -> int | None:
    """Whom to look at: of the domain that has been off for longest, the request that its draft knows most of already.

    None = nobody has enough new positions.
    """
    able = [i for i, sequence in enumerate(off) if sequence.num_watchable >= LEAST_POSITIONS]
    return min(able, key=lambda i: (-acceptances[i].steps_off, off[i].num_pending), default=None)
