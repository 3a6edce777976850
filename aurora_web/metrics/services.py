"""Writes and questions about counts: ingest, roll-up, ratios with intervals, chart series."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

from django.db import connection, transaction
from django.db.models import F, Min
from django.utils import timezone

from aurora_web import live
from aurora_web.metrics import charts, rollups
from aurora_web.metrics.capture import capture_series
from aurora_web.metrics.limits import FITS, added, check_has_been, sums_of
from aurora_web.metrics.models import (
    HOUR,
    WINDOW_SECONDS,
    CaptureHour,
    CaptureWindow,
    CountRow,
    MetricWindow,
    TokenTotal,
)
from aurora_web.metrics.ratios import Interval, Moments, divide, ratio_of_ratios, stratified
from aurora_web.metrics.rollups import DRAFTED_STEPS, DRAFTED_TOKENS, SUMMED
from aurora_web.registry.models import Target
from aurora_web.registry.services import find_target
from aurora_web.retention.services import kept
from aurora_web.traces.codec import count, identifier, moment, text
from aurora_web.traces.domains import mapping
from speculators.records import NO_DRAFT, CountWindow, RecordError

KEYS = ("target_id", *rollups.KEYS)
MAX_WINDOWS_PER_REQUEST = 10_000
DEFAULT_SECONDS = 600.0  # of figures that are asked for without a time
ROLL_UP_BATCH = 5_000
COUNT_ROW_HOURS = 24
CANARY_ROW_DAYS = 31  # at most, of a target with a canary
_ROW = ("id", "target_id", "replica", "started_at", "ended_at", "received_at", *KEYS[1:], *SUMMED)
_INSERT = (
    f"INSERT INTO metrics_countrow ({', '.join(_ROW)}) VALUES ({', '.join(['%s'] * len(_ROW))})"
    " ON CONFLICT (id) DO NOTHING"
)


def ingest_counts(payload: Any) -> tuple[int, int]:
    """Store count windows, all or nothing; returns (accepted, duplicates). Raises RecordError, UnknownTarget."""
    if not isinstance(payload, dict) or payload.keys() != {"counts"} or not isinstance(payload["counts"], list):
        raise RecordError("expected an object with the field counts, a list")
    if len(payload["counts"]) > MAX_WINDOWS_PER_REQUEST:
        raise RecordError(f"counts: expected at most {MAX_WINDOWS_PER_REQUEST} windows")
    windows = [CountWindow.from_json(raw) for raw in payload["counts"]]
    targets = {slug: find_target(slug) for slug in {w.target for w in windows}}
    now = timezone.now()
    domain_of = {slug: mapping(target) for slug, target in targets.items()}
    rows = [_count_row(w, targets[w.target], now, domain_of[w.target]) for w in windows]
    if not rows:
        return 0, 0
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.executemany(_INSERT, rows)
        accepted = int(cursor.rowcount)
    return accepted, len(rows) - accepted


def _count_row(window: CountWindow, target: Target, now: datetime, domain_of: Callable[[str], str]) -> tuple[Any, ...]:
    where = "CountWindow."
    ended = moment(window.ended_at, where + "ended_at")
    check_has_been(ended, now, where + "ended_at")
    return (
        identifier(window.window_id, where + "window_id"),
        target.pk,
        text(window.replica, where + "replica", 200),
        moment(window.started_at, where + "started_at"),
        ended,
        now,
        domain_of(text(window.domain, where + "domain", 100)),
        window.version if window.version == NO_DRAFT else count(window.version, where + "version"),
        count(window.lookahead, where + "lookahead"),
        count(window.batch_bucket, where + "batch_bucket"),
        *sums_of(window),
    )


_COMMA = ", "
_ROLL_UP = f"""
WITH picked AS (
    SELECT id FROM metrics_countrow WHERE rolled_up_at IS NULL ORDER BY received_at LIMIT {ROLL_UP_BATCH}
    FOR UPDATE SKIP LOCKED
), done AS (
    UPDATE metrics_countrow r SET rolled_up_at = now() FROM picked p
    WHERE r.id = p.id AND r.rolled_up_at IS NULL RETURNING r.*
), sums AS (
    SELECT {_COMMA.join(KEYS)},
           to_timestamp(floor(extract(epoch FROM ended_at) / {WINDOW_SECONDS}) * {WINDOW_SECONDS}) AS started_at,
           count(*) AS num_rows, {_COMMA.join(f"sum({c}) AS {c}" for c in SUMMED)}
    FROM done WHERE {FITS} GROUP BY {_COMMA.join(KEYS)}, 6
    ORDER BY {_COMMA.join(KEYS)}, 6
), stored AS (
    INSERT INTO metrics_metricwindow ({_COMMA.join(KEYS)}, started_at, {_COMMA.join(SUMMED)})
    SELECT {_COMMA.join(KEYS)}, started_at, {_COMMA.join(SUMMED)} FROM sums
    ON CONFLICT (target_id, started_at, domain, version, lookahead, batch_bucket)
    DO UPDATE SET {_COMMA.join(f"{c} = {added('metrics_metricwindow', c)}" for c in SUMMED)}
), totalled AS (
    INSERT INTO metrics_tokentotal (target_id, domain, num_accept_tokens)
    SELECT target_id, domain, sum(num_accept_tokens) FROM sums GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (target_id, domain)
    DO UPDATE SET num_accept_tokens = {added("metrics_tokentotal", "num_accept_tokens")}
)
SELECT target_id, min(started_at), sum(num_rows),
       array_agg(DISTINCT to_timestamp(floor(extract(epoch FROM started_at) / {HOUR}) * {HOUR}))
FROM sums GROUP BY target_id ORDER BY target_id
"""


@transaction.atomic
def roll_up() -> int:
    """Sum the count rows not yet summed into windows, each exactly once; returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(_ROLL_UP)
        changed = cursor.fetchall()
    for target_id, _, _, hours in changed:
        rollups.mark(target_id, hours)
    for target_id, since, _, _ in changed:
        since = max(since, timezone.now() - timedelta(minutes=10))  # a late spool must not send hours to the browser
        live.publish(target_id, "windows", windows_payload(Target(pk=target_id), since.timestamp()))
    return sum(int(num_rows) for _, _, num_rows, _ in changed)


def windows_payload(target: Target, since: float) -> dict[str, Any]:
    """What the browsers get when counts were summed: the windows since ``since``, and the speedup now.

    ``{"points": [charts.points], "speedups": {domain or "": interval}, "capture": [capture_series]}``
    """
    now = time.time()
    start = since // WINDOW_SECONDS * WINDOW_SECONDS
    return {
        "points": charts.points(target, start, now + WINDOW_SECONDS),
        "speedups": charts.latest_speedups(target, now),
        "capture": capture_series(target, start, now + WINDOW_SECONDS),
    }


def tokens_by_domain() -> list[tuple[str, str, int]]:
    """(slug, domain, accept tokens) since counting began; never less than before."""
    return list(TokenTotal.objects.order_by().values_list("target__slug", "domain", "num_accept_tokens"))


def waiting_since() -> datetime | None:
    """When the oldest count row that no window has yet arrived; None = none waits."""
    waiting = CountRow.objects.filter(rolled_up_at=None).order_by("received_at")
    return waiting.values_list("received_at", flat=True).first()


def forget(now: datetime) -> None:
    """Delete count rows long since summed, and windows older than the retention.

    A canary is judged by the rows since its start: on little traffic that is more than a day.
    """
    summed = CountRow.objects.filter(rolled_up_at__lt=now - timedelta(hours=COUNT_ROW_HOURS))
    summed.exclude(target__deployment__canary_started_at__lte=F("started_at")).delete()
    summed.filter(rolled_up_at__lt=now - timedelta(days=CANARY_ROW_DAYS)).delete()
    oldest = now - timedelta(days=kept().figure_days)
    oldest -= timedelta(seconds=oldest.timestamp() % HOUR)  # whole hours: roll-ups go with their windows
    rollups.forget(oldest)
    MetricWindow.objects.filter(started_at__lt=oldest).delete()
    CaptureWindow.objects.filter(started_at__lt=oldest).delete()
    CaptureHour.objects.filter(started_at__lt=oldest).delete()


_SUMMED_OF = itemgetter(*SUMMED)


def _is_control(row: dict[str, Any]) -> bool:
    return bool(row["version"] == 0)


def _sums(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    columns = zip(*map(_SUMMED_OF, rows), strict=True)
    return dict(zip(SUMMED, map(sum, columns), strict=False)) or dict.fromkeys(SUMMED, 0)


def _moments(sums: dict[str, Any]) -> Moments:
    return Moments(
        n=sums["num_requests"],
        sum_x=sums["num_accept_tokens"],
        sum_y=sums["decode_seconds"],
        sum_xx=sums["sum_xx"],
        sum_yy=sums["sum_yy"],
        sum_xy=sums["sum_xy"],
    )


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts and the ratios of their sums; ``rows`` hold ``domain``, ``version``, ``lookahead``, ``batch_bucket`` and
    the SUMMED columns.

    ``counts`` has every request outside the control; no ratio has those that a pin or header took speculation from.
    """
    speculative = _sums(r for r in rows if not _is_control(r))
    drafted = _sums(r for r in rows if not _is_control(r) and r["lookahead"] > 0)
    control = _sums(r for r in rows if _is_control(r))
    return {
        "counts": speculative,
        "control_counts": control,
        "accept_length": divide(
            drafted["num_accept_tokens"] - drafted["num_plain_steps"],
            drafted["num_verify_steps"] - drafted["num_plain_steps"],
        ),
        "plain_share": divide(drafted["num_plain_steps"], drafted["num_verify_steps"]),
        "accept_rate": divide(drafted["num_correct_drafts"], drafted["num_proposed_drafts"]),
        "tokens_per_second": _moments(drafted).ratio,
        "control_tokens_per_second": _moments(control).ratio,
        "speedup": _speedup(rows).to_json(),
    }


def _speedup(rows: list[dict[str, Any]]) -> Interval:
    """Speculative over control tokens/s, compared within each domain and batch size, weighted by speculative tokens.

    Requests that share a step are slower each, and domains differ: a plain ratio would compare unlike things. Where a
    pin or header says no speculation, requests are on neither side: nobody drew them for the control.
    """
    strata: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if not _is_control(row) and row["lookahead"] == 0:
            continue
        strata[row["domain"], row["batch_bucket"]].append(row)
    compared = []
    for group in strata.values():
        speculative, control = (_sums(r for r in group if _is_control(r) == side) for side in (False, True))
        ratio = ratio_of_ratios(
            _moments(speculative), _moments(control), a_name="speculative", b_name="control", b_unit="blocks"
        )
        compared.append((ratio, float(speculative["num_accept_tokens"])))
    found = stratified(sorted(compared, key=lambda pair: -pair[1]))
    if found.value is None and len(compared) > 1:
        return replace(found, reason=f"of one domain and batch size: {found.reason}")
    return found


def summary(
    target: Target,
    *,
    domain: str | None = None,
    since: float | None = None,
    until: float | None = None,
    with_batch_sizes: bool = True,
) -> dict[str, Any]:
    """Counts and their ratios, the speedup with its interval.

    ``{"target", "since", "until", "total": Row, "domains": [Row]}``, Row = ``{"domain", "counts", "control_counts",
    "accept_length", "plain_share", "accept_rate", "tokens_per_second", "control_tokens_per_second",
    "speedup": {"value", "low", "high", "reason"}, "batch_buckets": [Row]}``; ratios are None where there is nothing
    to divide. ``since`` (Unix seconds) defaults to ten minutes ago, ``until`` to now. Without ``with_batch_sizes``
    every ``batch_buckets`` is empty.
    """
    until = time.time() if until is None else until
    since = until - DEFAULT_SECONDS if since is None else since
    rows = _summed(target, since, until, domain)
    expected = [name for name in target.expected_domains if domain in (None, name)]
    by_domain: dict[str, list[dict[str, Any]]] = {name: [] for name in expected}  # they have rows without requests
    for row in rows:
        by_domain.setdefault(row["domain"], []).append(row)
    return {
        "target": target.slug,
        "since": since,
        "until": until,
        "total": _figures_of(domain or "", rows, with_batch_sizes),
        "domains": [_figures_of(name, group, with_batch_sizes) for name, group in sorted(by_domain.items())],
    }


def total(target: Target, since: float) -> dict[str, Any]:
    """The total of a summary until now, without its domains and batch sizes."""
    return _figures_of("", _summed(target, since, time.time()), with_batch_sizes=False)


def total_of(target: Target, version: int, since: float) -> dict[str, Any]:
    """The total of what one version served, beside the control since its first request at or after ``since``.

    The control from before would compare unlike things: under another mix of traffic both sides are faster or slower.
    """
    served = MetricWindow.objects.filter(target=target, version=version, started_at__gte=_window_start(since))
    first = served.aggregate(at=Min("started_at"))["at"]
    rows = [] if first is None else _summed(target, first.timestamp(), time.time(), version=version)
    return _figures_of("", rows, with_batch_sizes=False)


def _figures_of(domain: str, rows: list[dict[str, Any]], with_batch_sizes: bool) -> dict[str, Any]:
    return {"domain": domain, **figures(rows), "batch_buckets": _by_bucket(rows) if with_batch_sizes else []}


# Of version and lookahead only what figures() asks: whether it is the control, and whether anything was drafted.
_SUMMARY = f"""
SELECT domain, (version <> 0)::int, (lookahead > 0)::int, batch_bucket,
       {_COMMA.join(f"sum({name})::{'bigint' if name.startswith('num_') else 'float8'}" for name in SUMMED)}
FROM {{rows}}
WHERE (%(domain)s::text IS NULL OR domain = %(domain)s) AND (%(version)s::int IS NULL OR version IN (0, %(version)s))
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""


def _summed(
    target: Target, since: float, until: float, domain: str | None = None, version: int | None = None
) -> list[dict[str, Any]]:
    """Rows for figures() of every window that ``since`` to ``until`` touch; ``version``, ``lookahead`` are 0 or 1.

    ``version``: of its requests and the control's alone.
    """
    begin, end = _window_start(since).timestamp(), _window_start(until).timestamp() + WINDOW_SECONDS
    found = rollups.grouped(_SUMMARY, target, begin, end, SUMMED, domain=domain, version=version)
    return [dict(zip((*rollups.KEYS, *SUMMED), row, strict=True)) for row in found]


def _by_bucket(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    buckets = sorted({row["batch_bucket"] for row in rows})
    return [{"batch_bucket": b, **figures([r for r in rows if r["batch_bucket"] == b])} for b in buckets]


def _window_start(at: float) -> datetime:
    """The start of the window that ``at`` (Unix seconds) lies in."""
    clamped = min(max(at, 0.0), 253402300000.0)
    return datetime.fromtimestamp(clamped // WINDOW_SECONDS * WINDOW_SECONDS, UTC)


def series(target: Target, *, since: float | None = None, until: float | None = None) -> list[dict[str, Any]]:
    """Chart points, one per domain and ten-second window, oldest first:

    ``{"at", "domain", "version", "num_requests", "accept_length", "steps", "drafted_tokens", "tokens", "seconds",
    "control_tokens", "control_seconds"}`` (``at`` = Unix seconds of the window's start; counts, so that the browser
    can add windows and domains up before it divides; accept_length is None where nothing was drafted). ``tokens`` and
    ``seconds`` are those with speculation; ``num_requests`` has no blocks of the control. ``since`` (Unix seconds)
    defaults to ten minutes ago, ``until`` to now.
    """
    since = time.time() - DEFAULT_SECONDS if since is None else since
    last = None if until is None else _window_start(until)
    with connection.cursor() as cursor:
        cursor.execute(_SERIES, {"target": target.pk, "first": _window_start(since), "last": last})
        points = [dict(zip(_POINT, row, strict=True)) for row in cursor.fetchall()]
    for point in points:
        point["accept_length"] = divide(point["drafted_tokens"], point["steps"])
    return points


_POINT = ("at", "domain", "version", "num_requests", "steps", "drafted_tokens", "tokens", "seconds", "control_tokens",
          "control_seconds")  # fmt: skip
_DRAFTED = "FILTER (WHERE version <> 0 AND lookahead > 0), 0)"
_SERIES = f"""
SELECT date_part('epoch', started_at), domain, max(version),
       coalesce(sum(num_requests) FILTER (WHERE version <> 0), 0)::bigint,
       coalesce(sum({DRAFTED_STEPS}) {_DRAFTED}::bigint, coalesce(sum({DRAFTED_TOKENS}) {_DRAFTED}::bigint,
       coalesce(sum(num_accept_tokens) {_DRAFTED}::bigint, coalesce(sum(decode_seconds) {_DRAFTED},
       coalesce(sum(num_accept_tokens) FILTER (WHERE version = 0), 0)::bigint,
       coalesce(sum(decode_seconds) FILTER (WHERE version = 0), 0)
FROM metrics_metricwindow
WHERE target_id = %(target)s AND started_at >= %(first)s
    AND (%(last)s::timestamptz IS NULL OR started_at <= %(last)s::timestamptz)
GROUP BY started_at, domain ORDER BY started_at, domain
"""
