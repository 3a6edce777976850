"""Metric windows summed per five minutes and per hour, so that a month is read as quickly as a minute.

Nobody sees the difference: a question is answered from the sums of those hours that are known to be fresh, and from the
windows themselves everywhere else (the current hour, the ragged ends of a range, an hour that got late rows). Whoever
changes a window marks its hour in the same transaction; ``refresh`` sums marked hours again from nothing.

What a question found in the sums is kept in this process until one of their hours is summed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import F

from aurora_web.metrics.models import HOUR, ROLL_UP_WIDTHS, WINDOW_SECONDS, MetricRollUp, RollUpHour
from aurora_web.metrics.settled import settled
from aurora_web.registry.models import Target

GRACE = timedelta(seconds=60)  # rows of an hour go on coming after its end; summing it again each time would be wasted
HOURS_A_TURN = 100
MAX_SPANS = 8  # of fresh hours in one question; more only while a backlog of hours is summed
KEYS = ("domain", "version", "lookahead", "batch_bucket")
SUMMED = (
    "num_requests",
    "num_verify_steps",
    "num_plain_steps",
    "num_proposed_drafts",
    "num_correct_drafts",
    "num_accept_tokens",
    "decode_seconds",
    "sum_xx",
    "sum_yy",
    "sum_xy",
)
# An accept length is that of the steps that had drafts to verify; every other one commits one token.
DRAFTED_TOKENS = "(num_accept_tokens - num_plain_steps)"
DRAFTED_STEPS = "(num_verify_steps - num_plain_steps)"
OF_DRAFTED = ("num_accept_tokens", "num_verify_steps", "num_plain_steps")
# What its variance needs, the unit being a window with such steps.
OF_ONE_WINDOW = {
    "num_windows": f"({DRAFTED_STEPS} > 0)::int",
    "tokens_squared": f"{DRAFTED_TOKENS}::float8 * {DRAFTED_TOKENS}",
    "steps_squared": f"{DRAFTED_STEPS}::float8 * {DRAFTED_STEPS}",
    "tokens_steps": f"{DRAFTED_TOKENS}::float8 * {DRAFTED_STEPS}",
}
# Start of the bucket, Unix seconds. date_part, not extract: that one is numeric, and took most of a long chart's time.
BUCKET = "floor(date_part('epoch', started_at) / %(bucket)s) * %(bucket)s"


@dataclass(frozen=True, slots=True)
class Rows:
    """A FROM item of count rows that cover a period without gap or overlap, and its parameters."""

    sql: str
    values: dict[str, Any]


def width_for(bucket: float) -> int:
    """The longest roll-up that buckets of so many seconds are made of; WINDOW_SECONDS = none."""
    return max((w for w in ROLL_UP_WIDTHS if bucket % w == 0), default=WINDOW_SECONDS)


@dataclass(frozen=True, slots=True)
class Span:
    """A run of whole fresh hours, Unix seconds, and how often they have been summed in all."""

    low: float
    high: float
    revision: int


def rows(target: Target, since: float, until: float, columns: Sequence[str], width: int = HOUR) -> Rows:
    """Count rows of [since, until), as coarse as ``width`` allows: their start, KEYS, and ``columns`` of SUMMED and
    OF_ONE_WINDOW. Needs nothing but a GROUP BY to be what the windows would say."""
    summed = _fresh_spans(target, since, until) if width in ROLL_UP_WIDTHS else []
    return _rows(target, summed, _gaps(summed, since, until), columns, width)


def grouped(
    query: str, target: Target, since: float, until: float, columns: Sequence[str], width: int = HOUR, **given: Any
) -> list[tuple[Any, ...]]:
    """What ``query`` says of ``{rows}``, the count rows of ``rows()``.

    A group may come twice, to be added up: from the sums, which are read once for all who ask, and from the windows.

    ``given``: the query's own parameters, hashable.
    """
    summed = tuple(_fresh_spans(target, since, until) if width in ROLL_UP_WIDTHS else [])
    single = _gaps(summed, since, until)
    found = _ask(query, _rows(target, (), single, columns, width), given) if single else []
    if not summed:
        return found
    key = (query, target.pk, width, summed, *sorted(given.items()))
    return settled.get(key, lambda: _ask(query, _rows(target, summed, (), columns, width), given)) + found


def _ask(query: str, source: Rows, given: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query.format(rows=source.sql), source.values | given)
        return list(cursor.fetchall())


def _rows(
    target: Target,
    summed: Sequence[Span],
    single: Sequence[tuple[float, float]],
    columns: Sequence[str],
    width: int,
) -> Rows:
    raw = [f"{OF_ONE_WINDOW[name]} AS {name}" if name in OF_ONE_WINDOW else name for name in columns]
    values: dict[str, Any] = {"target": target.pk, "width": width}
    parts: list[str] = []
    spans = [(span.low, span.high) for span in summed]
    for table, names, periods in (("metricwindow", raw, single), ("metricrollup", columns, spans)):
        of_width = "AND width = %(width)s" if table == "metricrollup" else ""
        for low, high in periods:  # one part each, with plain bounds: a join with spans is planned without knowing them
            i = len(parts)
            values |= {f"low{i}": _moment(low), f"high{i}": _moment(high)}
            parts.append(
                f"SELECT started_at, {', '.join((*KEYS, *names))} FROM metrics_{table} WHERE target_id = %(target)s"
                f" AND started_at >= %(low{i})s AND started_at < %(high{i})s {of_width}"
            )
    return Rows(f"({' UNION ALL '.join(parts)}) count_rows", values)


# Runs of neighbouring hours: within one, the hour less its place in the order is the same for all.
_SPANS = """
SELECT date_part('epoch', min(started_at)), date_part('epoch', max(started_at)), sum(revision)
FROM (SELECT started_at, revision, started_at - row_number() OVER (ORDER BY started_at) * interval '1 hour' AS run
      FROM metrics_rolluphour WHERE target_id = %s AND is_fresh AND started_at >= %s AND started_at < %s) hours
GROUP BY run ORDER BY count(*) DESC, run LIMIT %s
"""


def _fresh_spans(target: Target, since: float, until: float) -> list[Span]:
    """The longest MAX_SPANS runs of whole fresh hours within [since, until), oldest first."""
    low, high = math.ceil(since / HOUR) * HOUR, math.floor(until / HOUR) * HOUR
    if high <= low:
        return []
    with connection.cursor() as cursor:
        cursor.execute(_SPANS, [target.pk, _moment(low), _moment(high), MAX_SPANS])
        found = [Span(first, last + HOUR, int(revision)) for first, last, revision in cursor.fetchall()]
    return sorted(found, key=lambda span: span.low)


def _gaps(spans: Iterable[Span], since: float, until: float) -> list[tuple[float, float]]:
    gaps, at = [], since
    for span in spans:
        if span.low > at:
            gaps.append((at, span.low))
        at = span.high
    return [*gaps, (at, until)] if until > at or not (gaps or spans) else gaps


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(min(max(at, 0.0), 253402300000.0), UTC)


_MARK = """
INSERT INTO metrics_rolluphour (target_id, started_at, is_fresh)
SELECT %(target)s, hour, false FROM unnest(%(hours)s::timestamptz[]) hour ORDER BY hour
ON CONFLICT (target_id, started_at) DO UPDATE SET is_fresh = false WHERE metrics_rolluphour.is_fresh
"""


def mark(target_id: int, hours: Sequence[datetime]) -> None:
    """Say that windows of these hours have changed; in the transaction that changed them, and after it did.

    The rows stay locked until its end, so that no refresh can call an hour fresh that it has not seen whole.
    """
    with connection.cursor() as cursor:
        cursor.execute(_MARK, {"target": target_id, "hours": list(hours)})


_COMMA = ", "
_PICK = """
SELECT id, target_id, started_at FROM metrics_rolluphour WHERE NOT is_fresh AND started_at < %s
ORDER BY started_at DESC LIMIT %s FOR UPDATE SKIP LOCKED
"""
# One hour at a time: a range in a join is a plan that the statistics of a young table get wrong. In order of width, so
# that the sums of an hour lie side by side: a month of them is read from a few hundred blocks instead of thousands.
_CLEAR = """
DELETE FROM metrics_metricrollup WHERE target_id = %(target)s AND width = ANY(%(widths)s)
    AND started_at >= %(hour)s AND started_at < %(end)s
"""
_SUM = f"""
INSERT INTO metrics_metricrollup (target_id, width, started_at, {_COMMA.join(KEYS)}, {_COMMA.join(SUMMED)},
    {_COMMA.join(OF_ONE_WINDOW)})
SELECT target_id, w.width, to_timestamp(floor(extract(epoch FROM started_at) / w.width) * w.width),
    {_COMMA.join(KEYS)}, {_COMMA.join(f"sum({name})" for name in SUMMED)},
    {_COMMA.join(f"sum({expression})" for expression in OF_ONE_WINDOW.values())}
FROM metrics_metricwindow CROSS JOIN unnest(%(widths)s::int[]) AS w (width)
WHERE target_id = %(target)s AND started_at >= %(hour)s AND started_at < %(end)s
GROUP BY 1, 2, 3, {_COMMA.join(KEYS)} ORDER BY 1, 2, 3
"""


@transaction.atomic
def refresh(now: datetime, limit: int = HOURS_A_TURN) -> int:
    """Sum marked hours that have ended, the newest first, each from nothing; returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(_PICK, [now - timedelta(seconds=HOUR) - GRACE, limit])
        picked = cursor.fetchall()
        for _, target_id, hour in picked:
            given = {"target": target_id, "hour": hour, "end": hour + timedelta(seconds=HOUR)}
            cursor.execute(_CLEAR, given | {"widths": list(ROLL_UP_WIDTHS)})
            cursor.execute(_SUM, given | {"widths": list(ROLL_UP_WIDTHS)})
    RollUpHour.objects.filter(pk__in=[pk for pk, *_ in picked]).update(is_fresh=True, revision=F("revision") + 1)
    return len(picked)


def forget(oldest: datetime) -> None:
    """Delete the sums of windows that are deleted too; ``oldest`` is the start of an hour."""
    RollUpHour.objects.filter(started_at__lt=oldest).delete()
    MetricRollUp.objects.filter(started_at__lt=oldest).delete()
