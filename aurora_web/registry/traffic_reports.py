"""What the generator of demo traffic says about itself, and what of it people have to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Max
from django.utils import timezone

from aurora_web.moments import said
from aurora_web.registry.models import Target, TrafficReport

FRESH = timedelta(seconds=60)  # it reports every fifteen seconds
LONGEST = 500


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a target's demo traffic is not what its settings say."""

    says: str
    is_whole: bool  # nothing arrives at all


def keep(reports: Sequence[dict[str, Any]]) -> int:
    """Keep the last report of each target that there is; returns how many were kept."""
    targets = {target.slug: target for target in Target.objects.filter(slug__in=[each["slug"] for each in reports])}
    for given in reports:
        if target := targets.get(given["slug"]):
            counts = {name: given[name] for name in ("seconds", "num_requests", "num_failures")}
            words = {name: given[name][:LONGEST] for name in ("last_failure", "problem")}
            fields = {"at": timezone.now(), **counts, **words}
            TrafficReport.objects.update_or_create(target=target, defaults=fields)
    return len(targets)


def trouble(target: Target, num_alive: int) -> Trouble | None:
    """What is wrong with the demo traffic of a target; None where it flows, is off, or has nowhere to go."""
    if not (target.traffic_enabled and target.is_active and num_alive):
        return None
    report = TrafficReport.objects.filter(target=target, at__gt=timezone.now() - FRESH).first()
    if report is None:
        return _unheard()
    if report.problem:
        return Trouble(f"its settings cannot be followed ({report.problem})", is_whole=False)
    if not report.num_failures:
        return None
    tried = report.num_requests + report.num_failures
    last = f"; the last one: {report.last_failure}" if report.last_failure else ""
    words = f"{report.num_failures} of {tried} requests failed within {report.seconds:.0f} s{last}"
    return Trouble(words, is_whole=not report.num_requests)


def _unheard() -> Trouble | None:
    """The generator reports about every target at once: one that it has not come to yet is no trouble."""
    last = TrafficReport.objects.aggregate(at=Max("at"))["at"]
    if last is not None and last > timezone.now() - FRESH:
        return None
    words = "its generator has not reported" + (
        f" since {said(last, '%Y-%m-%d %H:%M:%S')}" if last else " to this console"
    )
    return Trouble(f"{words}: see that python -m serving.traffic runs", is_whole=True)
