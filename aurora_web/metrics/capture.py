"""Traces kept and dropped over time, from the counters that the replicas report."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from django.db import connection, transaction

from aurora_web.metrics.models import HOUR, WINDOW_SECONDS
from aurora_web.metrics.rollups import BUCKET
from aurora_web.registry.models import Target

_ADD = """
INSERT INTO metrics_{table} AS kept (target_id, started_at, num_traces, num_dropped) VALUES (%s, %s, %s, %s)
ON CONFLICT (target_id, started_at) DO UPDATE SET num_traces = kept.num_traces + excluded.num_traces,
                                                  num_dropped = kept.num_dropped + excluded.num_dropped
"""
LARGEST_STEP = 10**9  # of a counter between two reports: one that says more must not fill the sum of an hour
_TABLES = {"capturewindow": WINDOW_SECONDS, "capturehour": HOUR}
_SERIES = f"""
SELECT {BUCKET}, sum(num_traces)::bigint, sum(num_dropped)::bigint FROM ({{parts}}) counted GROUP BY 1 ORDER BY 1
"""
_PART = """
SELECT started_at, num_traces, num_dropped FROM metrics_{table}
WHERE target_id = %(target)s AND started_at >= to_timestamp({low}) AND started_at < to_timestamp({high})
"""


def add_capture(target: Target, at: datetime, num_traces: int, num_dropped: int) -> None:
    """Add what one replica kept and dropped since its last report to the window of ``at``."""
    if num_traces <= 0 and num_dropped <= 0:
        return
    counts = [min(max(counted, 0), LARGEST_STEP) for counted in (num_traces, num_dropped)]
    with transaction.atomic(), connection.cursor() as cursor:
        for table, width in _TABLES.items():
            start = math.floor(at.timestamp() / width) * width
            cursor.execute(_ADD.format(table=table), [target.pk, datetime.fromtimestamp(start, UTC), *counts])


def since_last_report(known: int | None, now: int) -> int:
    """How far a counter went; a smaller one began again at 0, and what a new replica did before is not ours."""
    if known is None:
        return 0
    return now - known if now >= known else now


def capture_series(target: Target, since: float, until: float, bucket: int = WINDOW_SECONDS) -> list[dict[str, Any]]:
    """``[{"at", "traces", "dropped"}]`` per bucket, oldest first."""
    spans = [("capturewindow", "%(since)s", "%(until)s")]
    low, high = math.ceil(since / HOUR) * HOUR, math.floor(until / HOUR) * HOUR
    if bucket % HOUR == 0 and low < high:  # whole hours from their sums, the ragged ends from the windows
        spans = [("capturewindow", "%(since)s", "%(low)s"), ("capturehour", "%(low)s", "%(high)s"),
                 ("capturewindow", "%(high)s", "%(until)s")]  # fmt: skip
    parts = " UNION ALL ".join(_PART.format(table=table, low=begin, high=end) for table, begin, end in spans)
    given = {"target": target.pk, "since": since, "until": until, "low": low, "high": high, "bucket": bucket}
    with connection.cursor() as cursor:
        cursor.execute(_SERIES.format(parts=parts), given)
        return [{"at": at, "traces": kept, "dropped": dropped} for at, kept, dropped in cursor]
