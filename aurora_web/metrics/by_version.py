"""What each version measured while it served: sums per domain, per period, and over time; ratios of sums only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import F, Q, QuerySet, Sum

from aurora_web.metrics import rollups
from aurora_web.metrics.models import ROLL_UP_WIDTHS, WINDOW_SECONDS, MetricWindow
from aurora_web.metrics.ratios import Moments
from aurora_web.registry.models import Target

MAX_POINTS = 200  # of one curve


@dataclass(frozen=True, slots=True)
class Served:
    """Sums of one version in one domain; an accept length's unit is a window, whose second moments are known."""

    version: int
    domain: str
    num_requests: int
    accept: Moments  # x = accept tokens, y = verify steps, of one window with drafts

    @property
    def accept_length(self) -> float | None:
        return self.accept.ratio


_OF = ("num_requests", *rollups.OF_DRAFTED, *rollups.OF_ONE_WINDOW)
_DRAFTED = (
    "num_windows", rollups.DRAFTED_TOKENS, rollups.DRAFTED_STEPS, "tokens_squared", "steps_squared", "tokens_steps"
)  # fmt: skip
_SERVED = f"""
SELECT version, domain, sum(num_requests),
       {", ".join(f"sum({name}) FILTER (WHERE lookahead > 0)" for name in _DRAFTED)}
FROM {{rows}} WHERE version = ANY(%(numbers)s) GROUP BY 1, 2 ORDER BY 1, 2
"""


def _windows(target: Target, numbers: Sequence[int]) -> QuerySet[MetricWindow]:
    return MetricWindow.objects.filter(target=target, version__in=[n for n in numbers if n > 0])


def served_by_domain(target: Target, numbers: Sequence[int]) -> list[Served]:
    """One row per version and domain, over everything that is still kept."""
    numbers = [n for n in numbers if n > 0]
    period = _period(target, numbers)
    if period is None:
        return []
    source = rollups.rows(target, *period, _OF)
    with connection.cursor() as cursor:
        cursor.execute(_SERVED.format(rows=source.sql), source.values | {"numbers": numbers})
        return [_served(*row) for row in cursor.fetchall()]


# The two ends of each version in the index; min and max over all of them together read every window.
_PERIOD = """
SELECT date_part('epoch', min(first)), date_part('epoch', max(last)) FROM unnest(%(numbers)s::int[]) number
CROSS JOIN LATERAL (
    SELECT min(started_at) AS first, max(started_at) AS last FROM metrics_metricwindow
    WHERE target_id = %(target)s AND version = number
) ends
"""


def _period(target: Target, numbers: Sequence[int]) -> tuple[float, float] | None:
    """From the first window of any of these versions to the end of the last one; None without any."""
    with connection.cursor() as cursor:
        cursor.execute(_PERIOD, {"target": target.pk, "numbers": list(numbers)})
        first, last = cursor.fetchone()
    return None if first is None else (first, last + WINDOW_SECONDS)


def _served(version: int, domain: str, num_requests: Any, *sums: Any) -> Served:
    windows, *accept = (value or 0 for value in sums)
    return Served(version, domain, int(num_requests), Moments(int(windows), *(float(value) for value in accept)))


def served_between(target: Target, number: int, start: datetime, end: datetime | None) -> dict[str, Any]:
    """``{"num_requests", "accept_length"}`` of a version in one period; None where nothing was drafted."""
    windows = _windows(target, [number]).filter(started_at__gte=start - timedelta(seconds=WINDOW_SECONDS))
    if end is not None:
        windows = windows.filter(started_at__lte=end)
    drafted = Q(lookahead__gt=0)
    sums = windows.aggregate(
        requests=Sum("num_requests"),
        tokens=Sum(F("num_accept_tokens") - F("num_plain_steps"), filter=drafted),
        steps=Sum(F("num_verify_steps") - F("num_plain_steps"), filter=drafted),
    )
    return {
        "num_requests": sums["requests"] or 0,
        "accept_length": sums["tokens"] / sums["steps"] if sums["steps"] else None,
    }


_CURVE = f"""
SELECT {rollups.BUCKET} AS at, sum({rollups.DRAFTED_TOKENS})::bigint, sum({rollups.DRAFTED_STEPS})::bigint,
       sum(num_requests)::bigint
FROM {{rows}} WHERE version = %(version)s AND lookahead > 0
GROUP BY 1 HAVING sum({rollups.DRAFTED_STEPS}) > 0 ORDER BY 1
"""


def curve(target: Target, number: int) -> list[dict[str, float]]:
    """Accept length over time, at most about MAX_POINTS points: ``{"at", "tokens", "steps", "requests"}``, counts."""
    period = _period(target, [number])
    if period is None:
        return []
    first, end = period
    bucket = _curve_bucket(end - first)
    columns = (*rollups.OF_DRAFTED, "num_requests")
    source = rollups.rows(target, first, end, columns, rollups.width_for(bucket))
    with connection.cursor() as cursor:
        cursor.execute(_CURVE.format(rows=source.sql), source.values | {"bucket": bucket, "version": number})
        return [
            {"at": at, "tokens": tokens, "steps": steps, "requests": requests}
            for at, tokens, steps, requests in cursor.fetchall()
        ]


def _curve_bucket(span: float) -> int:
    """Seconds: the least multiple of a window, or of a roll-up where one is long enough, that gives MAX_POINTS."""
    unit = max((w for w in ROLL_UP_WIDTHS if span / MAX_POINTS >= w / 2), default=WINDOW_SECONDS)
    return max(1, math.ceil(span / MAX_POINTS / unit)) * unit
