"""What two reports of one replica say about the time between them; pure functions over counters.

Counters run since the replica's start, so only differences mean anything, and a counter that fell means a restart. A
time that fell does not: the clock was set back, and the windows that had begun cannot be timed any more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from speculators.records import ObservedState

RATE_SECONDS = 10.0
COMPARE_SECONDS = 60.0
MIN_COMPARED_STEPS = 200  # on either side; fewer say too little about a ratio
COMPARED_FOR_SECONDS = 600.0  # an older comparison says nothing about now


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of one report; ``at`` in Unix seconds of the replica's clock."""

    at: float
    num_traces: int
    num_verify_steps: int
    num_accept_tokens: int
    engine_num_verify_steps: int
    engine_num_accept_tokens: int

    @classmethod
    def of(cls, state: ObservedState) -> Counters:
        return cls(
            at=state.reported_at,
            num_traces=state.num_traces,
            num_verify_steps=state.num_verify_steps,
            num_accept_tokens=state.num_accept_tokens,
            engine_num_verify_steps=state.engine_num_verify_steps,
            engine_num_accept_tokens=state.engine_num_accept_tokens,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def has_restarted(self, later: Counters) -> bool:
        """Some counter of ``later`` is smaller: it began again."""
        mine, others = asdict(self), asdict(later)
        return any(others[name] < mine[name] for name in mine if name != "at")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Accept length over one window, by our records and by the engine's metrics."""

    accept_length: float
    engine_accept_length: float
    num_verify_steps: int


def traces_per_second(start: Counters, now: Counters) -> float | None:
    """None until RATE_SECONDS have passed."""
    seconds = now.at - start.at
    return (now.num_traces - start.num_traces) / seconds if seconds >= RATE_SECONDS else None


def compare(start: Counters, now: Counters) -> Comparison | None:
    """Ratio of differences on both sides; None while the window is short or either side has too few steps."""
    steps = now.num_verify_steps - start.num_verify_steps
    engine_steps = now.engine_num_verify_steps - start.engine_num_verify_steps
    if now.at - start.at < COMPARE_SECONDS or min(steps, engine_steps) < MIN_COMPARED_STEPS:
        return None
    engine_tokens = now.engine_num_accept_tokens - start.engine_num_accept_tokens
    if engine_tokens <= 0:
        return None
    return Comparison((now.num_accept_tokens - start.num_accept_tokens) / steps, engine_tokens / engine_steps, steps)
