"""What speculation saves and what learning costs, from measured times; and whether to go on.

Saved: per domain and batch size, the engine seconds that the tokens of speculative requests would have taken at the
control's seconds per token, less the seconds that they took. Requests of one batch share each step, so request
seconds are divided by the batch size (its bucket: rounded up, so that savings are understated rather than overstated).
The interval is that of the control's speed; strata without enough control blocks are left out and said.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, F, Q, Sum
from django.db.models.functions import Coalesce, Greatest, Least
from django.utils import timezone

from aurora_web.accounts.services import record
from aurora_web.metrics import rollups
from aurora_web.metrics.ratios import MIN_REQUESTS, Z95, Interval, Moments
from aurora_web.registry.models import Target
from aurora_web.rollouts.models import CostAssumption
from aurora_web.traces.models import TraceSegment
from aurora_web.training.models import SliceState, TrainingSlice

RANGES = {"1h": 3600, "24h": 86400, "7d": 604800, "28d": 2419200}
DEFAULT_RANGE = "24h"
EARLIER = timedelta(days=7)  # how far back a speculation that is off now may prove itself
LARGEST = {"engine_hour": 1e6, "trainer_hour": 1e6, "capture_percent": 100.0}
COSTS = (*LARGEST, "currency")


class CostError(ValueError):
    """An assumption that cannot be used; ``field`` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Stratum:
    """Speculative requests and the control of one domain and batch size."""

    domain: str
    batch_bucket: int
    num_requests: int
    num_tokens: int
    request_seconds: float
    num_proposed_drafts: int
    control: Moments  # per request: x = tokens, y = seconds


@dataclass(frozen=True, slots=True)
class Saving:
    """Engine seconds of one domain ("" = all)."""

    domain: str
    num_requests: int
    num_tokens: int
    spent_seconds: float  # by the covered tokens
    without_seconds: float | None  # what they would have taken
    saved: Interval  # seconds
    covered: float  # share of the tokens in strata with enough control blocks


@dataclass(frozen=True, slots=True)
class Training:
    """What the trainer was busy with."""

    seconds: float
    num_slices: int
    num_failed: int


@dataclass(frozen=True, slots=True)
class Capture:
    """What capture wrote, and the engine time for it: by assumption a share of what requests took."""

    num_segments: int
    num_traces: int
    num_bytes: int
    engine_seconds: float


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do, and why."""

    action: str  # "keep", "turn off", "turn back on", "pause training", "stay off" or "wait"
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Economics:
    """One target over one range."""

    since: datetime
    until: datetime
    total: Saving
    domains: tuple[Saving, ...]
    training: Training
    capture: Capture
    costs: CostAssumption
    saved_cost: Interval
    training_cost: float
    capture_cost: float
    net_cost: Interval
    break_even_seconds: float  # engine seconds that have to be saved to pay for training and capture
    advice: Advice


def economics(target: Target, name: str) -> Economics:
    """Everything over a range of RANGES, up to now."""
    until = timezone.now()
    since = until - timedelta(seconds=RANGES[name])
    strata = read_strata(target, since, until)
    total = saving("", strata)
    training = read_training(target, since, until)
    costs = CostAssumption.objects.filter(target=target).first() or CostAssumption(target=target)
    saved_cost = _scaled(total.saved, costs.engine_hour / 3600)
    training_cost = training.seconds / 3600 * costs.trainer_hour
    capture = read_capture(target, since, busy_seconds(strata) * costs.capture_percent / 100)
    capture_cost = capture.engine_seconds / 3600 * costs.engine_hour
    spent = training_cost + capture_cost
    earlier = None
    if not _is_drafting(strata):
        earlier = saving("", read_strata(target, until - EARLIER, until)).saved
    return Economics(
        since=since,
        until=until,
        total=total,
        domains=tuple(_by_domain(strata)),
        training=training,
        capture=capture,
        costs=costs,
        saved_cost=saved_cost,
        training_cost=training_cost,
        capture_cost=capture_cost,
        net_cost=_shifted(saved_cost, -spent),
        break_even_seconds=spent / costs.engine_hour * 3600 if costs.engine_hour else math.inf,
        advice=advise(total, saved_cost, training_cost, costs.currency, earlier),
    )


_STRATUM = {
    "n": "num_requests",
    "x": "num_accept_tokens",
    "y": "decode_seconds",
    "xx": "sum_xx",
    "yy": "sum_yy",
    "xy": "sum_xy",
    "p": "num_proposed_drafts",
}
# Requests that a pin keeps from speculation are on neither side: nobody drew them for the control.
_SIDES = ", ".join(
    f"coalesce(sum({column}) FILTER (WHERE {side}), 0) AS {name}_{key}"
    for name, side in (("s", "version <> 0 AND lookahead > 0"), ("c", "version = 0"))
    for key, column in _STRATUM.items()
)
_STRATA = f"SELECT domain, batch_bucket, {_SIDES} FROM {{rows}} GROUP BY 1, 2 ORDER BY 1, 2"


def read_strata(target: Target, since: datetime, until: datetime) -> list[Stratum]:
    """The sums of a period per domain and batch size."""
    source = rollups.rows(target, since.timestamp(), until.timestamp(), tuple(_STRATUM.values()))
    with connection.cursor() as cursor:
        cursor.execute(_STRATA.format(rows=source.sql), source.values)
        names = [column.name for column in cursor.description or ()]
        return [_stratum(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def _stratum(row: Any) -> Stratum:
    n, *sums = (row[f"c_{key}"] for key in ("n", "x", "y", "xx", "yy", "xy"))
    control = Moments(int(n), *(float(value) for value in sums))
    counts = int(row["s_n"]), int(row["s_x"]), float(row["s_y"]), int(row["s_p"])
    return Stratum(row["domain"], row["batch_bucket"], *counts, control)


def saving(domain: str, strata: Sequence[Stratum]) -> Saving:
    """Engine seconds saved over some strata, with their 95 % interval."""
    spent = without = variance = 0.0
    covered = 0
    for stratum in strata:
        ratio, relative = stratum.control.ratio, stratum.control.relative_variance()
        if not stratum.num_tokens or stratum.control.n < MIN_REQUESTS or not ratio or relative is None:
            continue
        would = stratum.num_tokens / ratio / stratum.batch_bucket
        spent += stratum.request_seconds / stratum.batch_bucket
        without += would
        variance += would * would * relative
        covered += stratum.num_tokens
    tokens = sum(stratum.num_tokens for stratum in strata)
    saved = Interval(None, None, None, _missing(strata))
    if covered:
        half = Z95 * math.sqrt(variance)
        saved = Interval(without - spent, without - spent - half, without - spent + half)
    num_requests = sum(stratum.num_requests for stratum in strata)
    share = covered / tokens if tokens else 0.0
    return Saving(domain, num_requests, tokens, spent, without if covered else None, saved, share)


def busy_seconds(strata: Sequence[Stratum]) -> float:
    """Engine seconds that all requests took, those of the control too."""
    return sum((stratum.request_seconds + stratum.control.sum_y) / stratum.batch_bucket for stratum in strata)


def _missing(strata: Sequence[Stratum]) -> str:
    if not any(stratum.num_tokens for stratum in strata):
        return "no speculative request has finished in this time"
    num_control = sum(stratum.control.n for stratum in strata)
    return f"{num_control} control blocks, at least {MIN_REQUESTS} of one domain and batch size are needed"


def _by_domain(strata: Sequence[Stratum]) -> list[Saving]:
    groups: dict[str, list[Stratum]] = defaultdict(list)
    for stratum in strata:
        groups[stratum.domain].append(stratum)
    found = [saving(domain, group) for domain, group in groups.items()]
    return sorted(found, key=lambda each: (-each.num_tokens, each.domain))


def _is_drafting(strata: Sequence[Stratum]) -> bool:
    return any(stratum.num_proposed_drafts for stratum in strata)


def _scaled(interval: Interval, factor: float) -> Interval:
    if interval.value is None or interval.low is None or interval.high is None:
        return interval
    return Interval(interval.value * factor, interval.low * factor, interval.high * factor)


def _shifted(interval: Interval, by: float) -> Interval:
    if interval.value is None or interval.low is None or interval.high is None:
        return interval
    return Interval(interval.value + by, interval.low + by, interval.high + by)


def read_training(target: Target, since: datetime, until: datetime) -> Training:
    """Seconds in which slices ran, cut to the period; a slice that runs counts up to now."""
    begun = TrainingSlice.objects.filter(run__target=target, started_at__lt=until).order_by()
    ended = Coalesce("finished_at", until)
    inside = begun.annotate(ended=ended).filter(ended__gt=since).exclude(state=SliceState.QUEUED)
    busy = Sum(Least(F("ended"), until) - Greatest(F("started_at"), since))
    sums = inside.aggregate(busy=busy, n=Count("pk"), failed=Count("pk", filter=Q(state=SliceState.FAILED)))
    return Training(sums["busy"].total_seconds() if sums["busy"] else 0.0, sums["n"], sums["failed"])


def read_capture(target: Target, since: datetime, engine_seconds: float) -> Capture:
    """Segments that arrived since then; ``engine_seconds``: what they are assumed to have taken."""
    arrived = TraceSegment.objects.filter(target=target, received_at__gte=since)
    sums = arrived.aggregate(n=Count("pk"), traces=Sum("num_traces", default=0), size=Sum("size_bytes", default=0))
    return Capture(sums["n"], sums["traces"], sums["size"], engine_seconds)


def advise(
    total: Saving, saved_cost: Interval, training_cost: float, currency: str, earlier: Interval | None = None
) -> Advice:
    """``earlier``: what was saved in the last days, when nothing is drafted now."""
    if earlier is not None:
        return _advise_off(earlier)
    saved = total.saved
    if saved.value is None or saved.low is None or saved.high is None:
        return Advice("wait", (f"It cannot be said yet: {saved.reason}.",))
    said = f"{_hours(saved.value)} of engine time saved, 95 % between {_hours(saved.low)} and {_hours(saved.high)}."
    if saved.high < 0:
        return Advice("turn off", (f"Speculation costs more engine time than it saves: {said}",))
    if saved.low <= 0:
        return Advice("wait", (f"The interval holds zero: {said}", "A larger control share makes it narrower."))
    paid = f"Training cost {training_cost:,.2f} {currency}, the savings are worth {saved_cost.value or 0.0:,.2f}."
    if (saved_cost.high or 0.0) < training_cost:
        why = "The live version saves without further training; train again when its accept length falls."
        return Advice("pause training", (said, paid, why))
    if (saved_cost.low or 0.0) < training_cost:
        return Advice("keep", (said, paid, "Whether the training pays for itself is still within the interval."))
    return Advice("keep", (said, paid))


def _advise_off(earlier: Interval) -> Advice:
    off = "Nothing was drafted in this time."
    if earlier.value is None or earlier.low is None or earlier.high is None:
        return Advice("wait", (off, f"Nor can the last seven days tell: {earlier.reason}."))
    said = (
        f"Over the last seven days it saved {_hours(earlier.value)} ({_hours(earlier.low)} to {_hours(earlier.high)})."
    )
    if earlier.low > 0:
        return Advice("turn back on", (off, said))
    return Advice("stay off", (off, said))


def _hours(seconds: float) -> str:
    """-90 -> "-1.5 min"."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min")):
        if abs(seconds) < limit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds / 3600:,.1f} h"


@transaction.atomic
def set_costs(target: Target, given: dict[str, Any], actor: str, reason: str = "") -> CostAssumption:
    """Change what an hour costs and what capture takes. Raises CostError naming the field."""
    row, _ = CostAssumption.objects.select_for_update().get_or_create(target=target)
    if unknown := given.keys() - set(COSTS):
        raise CostError(sorted(unknown)[0], f"expected one of {', '.join(COSTS)}")
    checked = {name: _checked(name, value) for name, value in given.items()}
    changed = {name: value for name, value in checked.items() if getattr(row, name) != value}
    old = {name: getattr(row, name) for name in changed}
    for name, value in changed.items():
        setattr(row, name, value)
    if changed:
        row.changed_at = timezone.now()
        row.save()
        detail = {"old": old, "new": changed}
        record(actor, "target.costs", target.slug, target_slug=target.slug, reason=reason, detail=detail)
    return row


def _checked(name: str, value: Any) -> Any:
    if name == "currency":
        if not isinstance(value, str) or not 0 < len(value.strip()) <= 8:
            raise CostError(name, f"{value!r:.40} cannot be used: expected 1 to 8 characters, like USD")
        return value.strip()
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number <= LARGEST[name]:
        raise CostError(name, f"{value!r:.40} cannot be used: expected a number from 0 to {LARGEST[name]:,.0f}")
    return number
