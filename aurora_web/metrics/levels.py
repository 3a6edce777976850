"""Accept length of late against what it was before, per domain, with an interval from the windows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection

from aurora_web.metrics.ratios import Interval, Moments, ratio_of_ratios
from aurora_web.metrics.rollups import DRAFTED_STEPS, DRAFTED_TOKENS
from aurora_web.registry.models import Target

RECENT = timedelta(minutes=10)
EARLIER = timedelta(minutes=60)  # before RECENT

_SUMS = f"""
SELECT domain, is_recent, count(*), sum(x), sum(y), sum(x * x), sum(y * y), sum(x * y) FROM (
    SELECT domain, started_at >= %s AS is_recent, started_at,
           sum({DRAFTED_TOKENS})::float8 AS x, sum({DRAFTED_STEPS})::float8 AS y
    FROM metrics_metricwindow
    WHERE target_id = %s AND started_at >= %s AND version > 0 AND lookahead > 0
    GROUP BY domain, is_recent, started_at HAVING sum({DRAFTED_STEPS}) > 0
) w GROUP BY domain, is_recent ORDER BY domain
"""


@dataclass(frozen=True, slots=True)
class Level:
    """One domain: accept length now and before, and their ratio."""

    domain: str
    recent: float | None
    earlier: float | None
    ratio: Interval


def accept_levels(target: Target, now: datetime) -> list[Level]:
    """Every domain that drafted in the last seventy minutes; a unit of the variance is a ten-second window."""
    with connection.cursor() as cursor:
        cursor.execute(_SUMS, [now - RECENT, target.pk, now - RECENT - EARLIER])
        rows = cursor.fetchall()
    sums = {(domain, is_recent): Moments(int(n), *map(float, rest)) for domain, is_recent, n, *rest in rows}
    return [_level(domain, sums) for domain in sorted({domain for domain, _ in sums})]


def _level(domain: str, sums: dict[tuple[str, bool], Moments]) -> Level:
    nothing = Moments(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    recent, earlier = sums.get((domain, True), nothing), sums.get((domain, False), nothing)
    ratio = ratio_of_ratios(recent, earlier, a_name="recent", b_name="earlier", unit="windows")
    return Level(domain, recent.ratio, earlier.ratio, ratio)
