"""Chart points over any range: sums per bucket made in the database, and the speedup with its 95 % band.

The browser adds counts up and divides; the speedup needs variances within domain and batch size, so it is made here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aurora_web.metrics import rollups
from aurora_web.metrics.bands import trailing_speedups
from aurora_web.metrics.models import WINDOW_SECONDS
from aurora_web.metrics.ratios import NOTHING_MEASURED
from aurora_web.registry.models import Target

MAX_BUCKETS = 200
SPEEDUP_SECONDS = 300.0  # each point of the speedup looks back so far: the control is a small share of the steps
STEPS = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)  # bucket lengths, seconds

_POINTS = f"""
SELECT {rollups.BUCKET} AS at, domain, version, lookahead > 0 AS is_drafted, sum(num_requests)::bigint,
       sum(num_verify_steps)::bigint, sum(num_plain_steps)::bigint, sum(num_proposed_drafts)::bigint,
       sum(num_accept_tokens)::bigint, sum(decode_seconds)
FROM {{rows}} GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3
"""
_POINTS_OF = ("num_requests", *rollups.OF_DRAFTED, "num_proposed_drafts", "decode_seconds")
_REQUESTS = f"""
SELECT {rollups.BUCKET} AS at, domain, sum(num_requests)::bigint FROM {{rows}} WHERE version <> 0
GROUP BY 1, 2 ORDER BY 1, 2
"""
_MOMENTS = f"""
SELECT {rollups.BUCKET} AS at, domain, batch_bucket, version = 0 AS is_control, sum(num_requests)::bigint,
       sum(num_accept_tokens)::float8, sum(decode_seconds), sum(sum_xx), sum(sum_yy), sum(sum_xy)
FROM {{rows}} WHERE version = 0 OR lookahead > 0 GROUP BY 1, 2, 3, 4 ORDER BY 1
"""
_MOMENTS_OF = ("num_requests", "num_accept_tokens", "decode_seconds", "sum_xx", "sum_yy", "sum_xy")
COUNTS = (
    "num_requests",
    "steps",
    "drafted_tokens",
    "all_steps",
    "proposed_drafts",
    "tokens",
    "seconds",
    "control_tokens",
    "control_seconds",
)
_NO_COUNTS = dict.fromkeys(COUNTS, 0)
ALL = 1_000_000_000  # one bucket for everything


def bucket_seconds(seconds: float) -> int:
    """The shortest bucket that draws ``seconds`` with at most MAX_BUCKETS points."""
    least = seconds / MAX_BUCKETS
    return next((step for step in STEPS if step >= least), int(math.ceil(least / 86400) * 86400))


def points(target: Target, since: float, until: float, bucket: int = WINDOW_SECONDS) -> list[dict[str, Any]]:
    """One point per domain and bucket, oldest first: ``{"at", "domain", COUNTS..., "versions": {number: tokens}}``.

    ``steps`` and ``drafted_tokens`` are of steps with drafts, ``all_steps``, ``tokens`` and ``seconds`` of every step
    of requests with speculation; ``num_requests`` has no blocks of the control; ``versions`` has the tokens of each,
    drafting or not, 0 = control, -1 = none yet.
    """
    found: dict[tuple[float, str], dict[str, Any]] = {}
    for at, domain, *sums in _rows(_POINTS, _POINTS_OF, target, since, until, bucket):
        point = found.get((at, domain))
        if point is None:
            point = found[at, domain] = {"at": at, "domain": domain, **_NO_COUNTS, "versions": {}}
        _add(point, *sums)
    return [found[key] for key in sorted(found)]


def requests(target: Target, since: float, until: float, bucket: int) -> list[dict[str, Any]]:
    """Of the points only ``{"at", "domain", "num_requests"}``, to be added up: what the mix of traffic is read from."""
    rows = _rows(_REQUESTS, ("num_requests",), target, since, until, bucket)
    return [{"at": at, "domain": domain, "num_requests": n} for at, domain, n in rows]


def _add(
    point: dict[str, Any],
    version: int,
    is_drafted: bool,
    requests: int,
    steps: int,
    plain: int,
    drafts: int,
    tokens: int,
    s: float,
) -> None:
    versions = point["versions"]
    versions[version] = versions.get(version, 0) + tokens
    if version == 0:
        point["control_tokens"] += tokens
        point["control_seconds"] += s
        return
    point["num_requests"] += requests
    if is_drafted:
        point["tokens"] += tokens
        point["seconds"] += s
        point["all_steps"] += steps
        point["proposed_drafts"] += drafts
        point["steps"] += steps - plain
        point["drafted_tokens"] += tokens - plain


def add_up(found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of points, whatever their buckets and domains."""
    total: dict[str, Any] = {**dict.fromkeys(COUNTS, 0), "versions": {}}
    for point in found:
        for name in COUNTS:
            total[name] += point[name]
        for version, tokens in point["versions"].items():
            total["versions"][version] = total["versions"].get(version, 0) + tokens
    return total


def speedups(target: Target, since: float, until: float, bucket: int, domain: str = "") -> list[dict[str, Any]]:
    """Speedup over the control at the end of every bucket, over the SPEEDUP_SECONDS (or the bucket) before it.

    ``[{"at", "value", "low", "high", "reason"}]``; value is None, with the reason, where too little was measured.
    """
    back = max(1, math.ceil(SPEEDUP_SECONDS / bucket))
    first = math.floor(since / bucket)
    num = math.ceil(until / bucket) - first
    rows = _rows(_MOMENTS, _MOMENTS_OF, target, (first - back + 1) * bucket, until, bucket)
    numbered = [(round(at / bucket), name, *row) for at, name, *row in rows if (not domain or name == domain)]
    return [
        {"at": float(min((first + i + 1) * bucket, until)), **interval.to_json()}
        for i, interval in enumerate(trailing_speedups(numbered, first, num, back))
        if interval
    ]


def latest_speedups(target: Target, until: float) -> dict[str, dict[str, Any]]:
    """The speedup over the last SPEEDUP_SECONDS: of everything under "", and of each domain."""
    rows = [(0, *row) for _, *row in _rows(_MOMENTS, _MOMENTS_OF, target, until - SPEEDUP_SECONDS, until, ALL)]
    chosen = {"": rows, **{name: [row for row in rows if row[1] == name] for name in sorted({row[1] for row in rows})}}
    found = {name: trailing_speedups(some, 0, 1, 1)[0] or NOTHING_MEASURED for name, some in chosen.items()}
    return {name: {"at": until, **interval.to_json()} for name, interval in found.items()}


def _rows(
    query: str, columns: Sequence[str], target: Target, since: float, until: float, bucket: int
) -> list[tuple[Any, ...]]:
    return rollups.grouped(query, target, since, until, columns, rollups.width_for(bucket), bucket=bucket)
