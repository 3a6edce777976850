"""Everything that the charts of a target's page show over one range: as JSON, as a table, as CSV."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from aurora_web.console.sparkline import version_name
from aurora_web.console.timeline import MAX_MARKERS, markers
from aurora_web.exports import to_csv
from aurora_web.metrics import charts
from aurora_web.metrics.capture import capture_series
from aurora_web.metrics.models import WINDOW_SECONDS
from aurora_web.metrics.ratios import divide
from aurora_web.numbers import grouped, percent
from aurora_web.registry.models import Target
from aurora_web.training.history import loss_points

LATE_SECONDS = 5.0  # that counts take to come; as in static/js/charts.js
FRESH_SECONDS = 120.0  # the newest windows come singly, so that what is pushed afterwards can be added to them


def chart_data(target: Target, since: float, until: float, domain: str = "", bucket: int = 0) -> dict[str, Any]:
    """``{"bucket_seconds", "fresh_since", "buckets", "windows", "speedup", "capture", "loss", "events", "is_cut"}``.

    ``buckets`` hold sums per ``bucket_seconds`` before ``fresh_since`` (the last one of what there is), ``windows`` per
    ten seconds after it, both as metrics.charts.points; a range that ended long ago has no windows. ``events`` are the
    markers, ``is_cut``: there are older ones. ``domain`` limits the speedup only, the browser chooses among the
    points.
    """
    bucket = bucket or charts.bucket_seconds(until - since)
    is_open = until > time.time() - FRESH_SECONDS
    cut = math.floor((until - FRESH_SECONDS) / WINDOW_SECONDS) * WINDOW_SECONDS if is_open else until
    cut = max(cut, math.floor(since / bucket) * bucket)
    ahead = until + (WINDOW_SECONDS if is_open else 0)
    buckets = charts.points(target, since, cut, bucket)
    windows = charts.points(target, cut, ahead) if is_open else []
    marked = markers(target, since, ahead, [*buckets, *windows], bucket, MAX_MARKERS + 1)
    return {
        "since": since,
        "until": until,
        "bucket_seconds": bucket,
        "fresh_since": cut,
        "buckets": buckets,
        "windows": windows,
        "speedup": charts.speedups(target, since, until, bucket, domain),
        "capture": capture_series(target, since, cut, bucket),
        "capture_windows": capture_series(target, cut, ahead) if is_open else [],
        "loss": loss_points(target, since, ahead),
        "events": marked[:MAX_MARKERS],
        "is_cut": len(marked) > MAX_MARKERS,
    }


HEADINGS = {
    "at": "Time (UTC)",
    "num_requests": "Requests",
    "accept_length": "Accept length",
    "speedup": "Speedup",
    "speedup_low": "95 % from",
    "speedup_high": "95 % to",
    "tokens_per_second": "Tokens/s",
    "control_tokens_per_second": "Without",
    "mean_lookahead": "Mean lookahead",
    "traces_per_second": "Traces/s",
    "num_dropped_traces": "Dropped traces",
    "loss": "Loss",
    "versions": "Tokens by version",
}


def points_of(target: Target, since: float, until: float) -> tuple[list[dict[str, Any]], int]:
    """The points of a range and the seconds of their buckets, for its table and its timeline."""
    bucket = charts.bucket_seconds(until - since)
    return charts.points(target, since, until, bucket), bucket


def table(
    target: Target, since: float, until: float, points: list[dict[str, Any]], bucket: int, domain: str = ""
) -> list[dict[str, Any]]:
    """One row per bucket under the names of HEADINGS, newest first; None where nothing was measured.

    ``points``, ``bucket``: the whole range's, from ``points_of``.
    """
    by_bucket = _by_bucket([point for point in points if not domain or point["domain"] == domain])
    speedups = {math.ceil(s["at"] / bucket) - 1: s for s in charts.speedups(target, since, until, bucket, domain)}
    capture = {row["at"]: row for row in capture_series(target, since, until, bucket)}
    losses = {math.floor(p["at"] / bucket) * bucket: p["loss"] for p in loss_points(target, since, until)}
    over = min(until, time.time() - LATE_SECONDS)
    moments = sorted(by_bucket.keys() | capture.keys() | losses.keys(), reverse=True)
    return [
        _row(at, by_bucket.get(at, []), bucket)
        | _speedup(speedups.get(round(at / bucket)))
        | _capture(capture.get(at), bucket, is_over=at + bucket <= over)
        | {"loss": losses.get(at)}
        for at in moments
    ]


def _row(at: float, points: list[dict[str, Any]], bucket: int) -> dict[str, Any]:
    sums = charts.add_up(points)
    total = sum(sums["versions"].values())
    shares = sorted(sums["versions"].items(), key=lambda pair: -pair[1])
    return {
        "at": datetime.fromtimestamp(at, UTC),
        "num_requests": sums["num_requests"],
        "accept_length": divide(sums["drafted_tokens"], sums["steps"]),
        "tokens_per_second": divide(sums["tokens"], sums["seconds"]),
        "control_tokens_per_second": divide(sums["control_tokens"], sums["control_seconds"]),
        "mean_lookahead": divide(sums["proposed_drafts"], sums["all_steps"]),
        "versions": ", ".join(
            f"{version_name(int(v))} {percent(tokens / total, 0)} ({grouped(tokens)})" for v, tokens in shares if total
        ),
    }


def _speedup(found: dict[str, Any] | None) -> dict[str, Any]:
    found = found or {}
    return {
        "speedup": found.get("value"),
        "speedup_low": found.get("low"),
        "speedup_high": found.get("high"),
    }


def _capture(found: dict[str, Any] | None, bucket: int, *, is_over: bool) -> dict[str, Any]:
    """A bucket that is not over, or whose last counts are still on their way, has no rate."""
    return {
        "traces_per_second": found["traces"] / bucket if found and is_over else None,
        "num_dropped_traces": found["dropped"] if found else None,
    }


def as_csv(rows: list[dict[str, Any]], points: list[dict[str, Any]], domain: str = "") -> str:
    """The table as CSV, oldest first; beside its columns, numbers of each domain and the tokens of each version.

    ``points``: those that the table was made of. In place of the words "versions" stand ``num_requests:<domain>``,
    ``accept_length:<domain>`` and ``tokens:<version>``, so that a line is one span of time and nothing counts twice.
    """
    chosen = [point for point in points if not domain or point["domain"] == domain]
    domains = sorted({point["domain"] for point in chosen})
    versions = sorted({int(version) for point in chosen for version in point["versions"]})
    found = {datetime.fromtimestamp(at, UTC): _numbers(group) for at, group in _by_bucket(chosen).items()}
    empty: dict[str, Any] = dict.fromkeys(
        [f"num_requests:{name}" for name in domains] + [_tokens_of(v) for v in versions], 0
    )
    empty |= dict.fromkeys((f"accept_length:{name}" for name in domains), None)
    columns = [name for name in HEADINGS if name != "versions"]
    columns += [f"{what}:{name}" for name in domains for what in ("num_requests", "accept_length")]
    columns += [_tokens_of(version) for version in versions]
    return to_csv(columns, (row | empty | found.get(row["at"], {}) for row in reversed(rows)))


def _numbers(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one bucket, which has one point for each domain."""
    found: dict[str, Any] = {_tokens_of(int(v)): tokens for v, tokens in charts.add_up(points)["versions"].items()}
    for point in points:
        found[f"num_requests:{point['domain']}"] = point["num_requests"]
        found[f"accept_length:{point['domain']}"] = divide(point["drafted_tokens"], point["steps"])
    return found


def _tokens_of(version: int) -> str:
    return f"tokens:{version_name(version)}"


def _by_bucket(points: list[dict[str, Any]]) -> dict[float, list[dict[str, Any]]]:
    found: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for point in points:
        found[point["at"]].append(point)
    return found
