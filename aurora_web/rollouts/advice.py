"""Whether speculation and training are worth what they cost: what to do, and why, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from aurora_web.metrics.ratios import Interval
from aurora_web.rollouts.savings import Stratum


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do, and why."""

    action: str  # "keep", "turn off", "turn back on", "pause training", "stay off" or "wait"
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spent:
    """What learning cost, in ``currency``."""

    training: float
    capture: float  # by an assumed share of the engine's time
    currency: str

    @property
    def total(self) -> float:
        """Of both."""
        return self.training + self.capture


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the gate's replay says that a version would do to speed; nobody has measured it."""

    number: int
    speedup: float  # over no speculation
    is_live: bool


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a speculation that is off."""

    days: int  # that were looked at
    drafted_until: datetime | None  # the last time that anything was drafted; None = not in those days
    saved: Interval  # seconds, over the week up to then
    prediction: Prediction | None = None  # the fastest of the versions that came later


def advise(saved: Interval, saved_cost: Interval, spent: Spent) -> Advice:
    """Of a speculation that is on and drafts. ``saved``: engine seconds; ``saved_cost``: the same in money."""
    if saved.value is None or saved.low is None or saved.high is None:
        return Advice("wait", (f"It cannot be said yet: {saved.reason}.",))
    said = f"{_hours(saved.value)} of engine time saved, 95 % between {_hours(saved.low)} and {_hours(saved.high)}."
    if saved.high < 0:
        return Advice("turn off", (f"Speculation costs more engine time than it saves: {said}",))
    if saved.low <= 0:
        return Advice("wait", (f"The interval holds zero: {said}", "A larger control share makes it narrower."))
    return _advise_training(said, saved_cost, spent)


def _advise_training(said: str, saved_cost: Interval, spent: Spent) -> Advice:
    paid = (
        f"Training cost {spent.training:,.2f} and capture {spent.capture:,.2f} {spent.currency}, "
        f"{spent.total:,.2f} together; the savings are worth {saved_cost.value or 0.0:,.2f}."
    )
    if (saved_cost.high or 0.0) < spent.total:
        why = "The live version saves without further training; train again when its accept length falls."
        if (saved_cost.high or 0.0) < spent.capture:
            why += " Capture alone costs more than is saved, and goes on while training is paused."
        return Advice("pause training", (said, paid, why))
    if (saved_cost.low or 0.0) < spent.total:
        return Advice("keep", (said, paid, "Whether training and capture pay is still within the interval."))
    return Advice("keep", (said, paid))


def advise_idle(strata: Sequence[Stratum]) -> Advice:
    """Of a speculation that is on, over a time in which nothing was drafted: it was never switched off."""
    if any(each.num_requests for each in strata):
        why = "The engine chooses not to draft at present: as it measures its steps, drafts would not pay"
    elif any(each.num_undrafted for each in strata):
        why = "Speculation is on, but each request was pinned to no drafts or found no version that drafts"
    elif any(each.control.n for each in strata):
        why = "Speculation is on, but only the control has finished in this time"
    else:
        why = "Speculation is on, but no request has finished in this time"
    return Advice("wait", (f"{why}.",))


def advise_off(past: Past) -> Advice:
    """Of a speculation that is off: what it saved when it drafted last, or what a newer version promises."""
    reasons = ["Speculation is off: the largest lookahead is 0.", _said_of(past)]
    has_saved = past.saved.low is not None and past.saved.low > 0
    is_promised = past.prediction is not None and past.prediction.speedup > 1
    if past.prediction is not None:
        reasons.append(_promise(past.prediction))
    if has_saved or is_promised:
        return Advice("turn back on", tuple(reasons))
    return Advice("wait" if past.saved.value is None else "stay off", tuple(reasons))


def _said_of(past: Past) -> str:
    if past.drafted_until is None:
        return f"Nothing was drafted in the last {past.days} days, so nothing measured says whether it would save."
    week = f"the seven days up to {past.drafted_until:%Y-%m-%d %H:%M} UTC, when it drafted last"
    saved = past.saved
    if saved.value is None or saved.low is None or saved.high is None:
        return f"Nor can {week}, tell what it saved: {saved.reason}."
    return f"Over {week}, it saved {_hours(saved.value)} (95 %: {_hours(saved.low)} to {_hours(saved.high)})."


def _promise(found: Prediction) -> str:
    state = "" if found.is_live else ", which is not live yet"
    return (
        f"The newer v{found.number}{state}, is predicted to be {found.speedup:,.2f} times as fast as no speculation: "
        "a prediction from replayed traces and what steps cost, not a measurement."
    )


def _hours(seconds: float) -> str:
    """-90 -> "-1.5 min"."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min")):
        if abs(seconds) < limit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds / 3600:,.1f} h"
