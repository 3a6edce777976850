"""What speculation saves (rollouts/savings.py) and what learning costs, over one range; and whether to go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count, F, Q, Sum
from django.db.models.functions import Coalesce, Greatest, Least
from django.utils import timezone

from aurora_web.accounts.services import record
from aurora_web.metrics.ratios import Interval
from aurora_web.registry.models import Status, Target
from aurora_web.rollouts.advice import Advice, Past, Prediction, Spent, advise, advise_idle, advise_off
from aurora_web.rollouts.models import CostAssumption, GateDecision
from aurora_web.rollouts.savings import (
    Saving,
    Stratum,
    busy_seconds,
    by_domain,
    last_drafted,
    read_strata,
    saving,
)
from aurora_web.traces.models import TraceSegment
from aurora_web.training.models import SliceState, TrainingSlice

RANGES = {"1h": 3600, "24h": 86400, "7d": 604800, "28d": 2419200}
DEFAULT_RANGE = "24h"
LOOKED_BACK = timedelta(days=28)  # for the last drafts of a speculation that is off
EARLIER = timedelta(days=7)  # up to those, by which it is judged
USABLE = (Status.CANDIDATE, Status.PASSED, Status.CANARY, Status.LIVE)
REFUSED = "largest lookahead 0"  # in a replica's policy_detail: its engine drafts on (serving/sglang_backend)
LARGEST = {"engine_hour": 1e6, "trainer_hour": 1e6, "capture_percent": 100.0}
COSTS = (*LARGEST, "currency")


class CostError(ValueError):
    """An assumption that cannot be used; ``field`` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


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
    spent = Spent(training_cost, capture_cost, costs.currency)
    return Economics(
        since=since,
        until=until,
        total=total,
        domains=tuple(by_domain(strata)),
        training=training,
        capture=capture,
        costs=costs,
        saved_cost=saved_cost,
        training_cost=training_cost,
        capture_cost=capture_cost,
        net_cost=_shifted(saved_cost, -spent.total),
        break_even_seconds=spent.total / costs.engine_hour * 3600 if costs.engine_hour else math.inf,
        advice=_advice(target, strata, until, total.saved, saved_cost, spent),
    )


def _advice(
    target: Target, strata: Sequence[Stratum], until: datetime, saved: Interval, saved_cost: Interval, spent: Spent
) -> Advice:
    """On, idle or off: off is what the policy says, unless drafts come from an engine that does not obey it."""
    is_drafting = any(each.num_proposed_drafts for each in strata)
    refusals = [] if target.max_lookahead or not is_drafting else _refusals(target)
    if not target.max_lookahead and not refusals:
        return advise_off(read_past(target, until))
    if not is_drafting:
        return advise_idle(strata)
    found = advise(saved, saved_cost, spent)
    return Advice(found.action, (*found.reasons, *refusals))


def _refusals(target: Target) -> list[str]:
    drafting = target.replicas.filter(is_alive=True, policy_detail__contains=REFUSED).order_by("name")
    return [f"{each.name} drafts, though the largest lookahead is 0: {each.policy_detail}" for each in drafting[:3]]


def read_past(target: Target, until: datetime) -> Past:
    """What a speculation that is off saved when it drafted last, and what is predicted of the versions since."""
    last = last_drafted(target, until - LOOKED_BACK, until)
    if last is None:
        nothing = saving("", ()).saved
        return Past(LOOKED_BACK.days, None, nothing, _prediction(target, 0))
    at, version = last
    return Past(
        LOOKED_BACK.days, at, saving("", read_strata(target, at - EARLIER, at)).saved, _prediction(target, version)
    )


def _prediction(target: Target, version: int) -> Prediction | None:
    """Of the fastest version that is newer, by its gate's replay."""
    judged = GateDecision.objects.filter(version__target=target, version__number__gt=version)
    usable = judged.filter(version__status__in=USABLE, predicted_speedup__isnull=False)
    best = usable.select_related("version").order_by("-predicted_speedup", "-version__number").first()
    if best is None or best.predicted_speedup is None:
        return None
    return Prediction(best.version.number, best.predicted_speedup, best.version.status == Status.LIVE)


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
