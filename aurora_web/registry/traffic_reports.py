"""What the generator of demo traffic says about itself, and what of it people have to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Max
from django.utils import timezone

from aurora_web.moments import said
from aurora_web.outage import seconds_in_order
from aurora_web.registry.models import Target, TrafficReport

FRESH = timedelta(seconds=60)  # it reports every fifteen seconds
LONGEST = 500
COUNTS = ("seconds", "num_requests", "num_failures")
WORDS = ("last_failure", "problem")


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a target's demo traffic is not what its settings say."""

    says: str
    is_whole: bool  # nothing arrives at all


def keep(reports: Sequence[dict[str, Any]]) -> int:
    """Keep the last report of each target that there is, all at once; returns how many were kept."""
    given = {each["slug"]: each for each in reports}
    now, rows = timezone.now(), []
    for target in Target.objects.filter(slug__in=given).order_by(
        "pk"
    ):  # two that report wait for each other in no ring
        report = given[target.slug]
        counts = {name: report[name] for name in COUNTS}
        words = {name: report[name][:LONGEST] for name in WORDS}
        rows.append(TrafficReport(target=target, at=now, **counts, **words))
    TrafficReport.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["target"], update_fields=["at", *COUNTS, *WORDS]
    )
    return len(rows)


def trouble(target: Target, num_alive: int) -> Trouble | None:
    """What is wrong with the demo traffic of a target; None where it flows, is off, or has nowhere to go."""
    if not (target.traffic_enabled and target.is_active and num_alive):
        return None
    report = TrafficReport.objects.filter(target=target).first()
    if report is None or not _is_fresh(report.at):
        return _unheard(target, report.at if report else None)
    if report.problem:
        return Trouble(f"its settings cannot be followed ({report.problem})", is_whole=False)
    if not report.num_failures:
        return None
    tried = report.num_requests + report.num_failures
    last = f"; the last one: {report.last_failure}" if report.last_failure else ""
    words = f"{report.num_failures} of {tried} requests failed within {report.seconds:.0f} s{last}"
    return Trouble(words, is_whole=not report.num_requests)


def _is_fresh(at: datetime) -> bool:
    return at > timezone.now() - FRESH


def _unheard(target: Target, last: datetime | None) -> Trouble | None:
    """Nothing was heard of a target since ``last``: None where it could not have been, or not for long enough."""
    if seconds_in_order() < FRESH.total_seconds() or _is_fresh(target.created_at):
        return None
    anything = TrafficReport.objects.aggregate(at=Max("at"))["at"]
    if anything is not None and _is_fresh(anything):  # of others: every report is about every target
        words = f"its generator reports, but{_since(last)} not of this target: start python -m serving.traffic again"
        return Trouble(words, is_whole=False)
    words = f"its generator has not reported{_since(anything) or ' to this console'}"
    return Trouble(f"{words}: see that python -m serving.traffic runs", is_whole=True)


def _since(at: datetime | None) -> str:
    return f" since {said(at, '%Y-%m-%d %H:%M:%S')}" if at else ""
