"""Figures per domain over time: heatmap, trend, share of traffic, drift.

Drift compares two adjacent windows of the same width. A domain drifts when its share of the requests, or its accept
length under one and the same version, has moved by more than DRIFT_ERRORS standard errors and by at least
MIN_SHARE_CHANGE (of all requests) or MIN_ACCEPT_CHANGE (relative). A new version is no drift: it is a swap.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Any

from django.db import connection

from aurora_web.metrics import rollups
from aurora_web.metrics.ratios import MIN_REQUESTS, NOTHING, Z95, Moments, ratio_of_ratios, student
from aurora_web.registry.models import Target

RANGES = {"1h": (3600, 300), "24h": (86400, 3600), "7d": (604800, 21600)}  # seconds, and those of one window
DEFAULT_RANGE = "24h"
DRIFT_ERRORS = 3.0
MIN_DRIFT_REQUESTS = 50  # in either window, all domains together
MIN_SHARE_CHANGE = 0.05
MIN_ACCEPT_CHANGE = 0.05

_OF = ("num_requests", *rollups.OF_DRAFTED, *rollups.OF_ONE_WINDOW)
_DRAFTED = (
    "num_windows", rollups.DRAFTED_TOKENS, rollups.DRAFTED_STEPS, "tokens_squared", "steps_squared", "tokens_steps"
)  # fmt: skip
_SUMS = f"""
SELECT ({rollups.BUCKET})::bigint AS at, domain, version,
       coalesce(sum(num_requests) FILTER (WHERE version <> 0), 0)::bigint,
       {", ".join(f"sum({name}) FILTER (WHERE lookahead > 0)" for name in _DRAFTED)}
FROM {{rows}} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class DomainSums:
    """One window, domain and version; the control is version 0."""

    at: int  # Unix seconds of the window's start
    domain: str
    version: int
    num_requests: int  # 0 of the control, whose units are blocks of steps, not requests
    accept: Moments  # per ten-second window that verified drafts: x = accept tokens, y = verify steps


@dataclass(frozen=True, slots=True)
class Drift:
    """Something that moved between two adjacent windows."""

    at: int  # start of the later window
    domain: str
    what: str  # "share" | "accept length"
    version: int | None  # of an accept length
    before: float
    after: float
    errors: float  # how many standard errors


def read_sums(target: Target, since: datetime, until: datetime, width: int) -> list[DomainSums]:
    """Sums per window of ``width`` seconds, domain and version, oldest first."""
    source = rollups.rows(target, since.timestamp(), until.timestamp(), _OF, rollups.width_for(width))
    with connection.cursor() as cursor:
        cursor.execute(_SUMS.format(rows=source.sql), source.values | {"bucket": width})
        return [
            DomainSums(int(at), domain, version, int(n), Moments(int(num or 0), *(float(value or 0) for value in sums)))
            for at, domain, version, n, num, *sums in cursor.fetchall()
        ]


def find_drift(rows: Sequence[DomainSums], width: int) -> list[Drift]:
    """What moved between adjacent windows, newest first."""
    windows: dict[int, list[DomainSums]] = defaultdict(list)
    for row in rows:
        windows[row.at].append(row)
    found: list[Drift] = []
    for at in sorted(windows):
        if at - width in windows:
            found += _moved(at, windows[at - width], windows[at])
    return sorted(found, key=lambda drift: (-drift.at, -drift.errors))


def _moved(at: int, before: Sequence[DomainSums], after: Sequence[DomainSums]) -> list[Drift]:
    domains = sorted({row.domain for row in (*before, *after)})
    totals = [sum(row.num_requests for row in side) for side in (before, after)]
    found = []
    for domain in domains:
        sides = [[row for row in side if row.domain == domain] for side in (before, after)]
        counts = [sum(row.num_requests for row in side) for side in sides]
        if min(totals) >= MIN_DRIFT_REQUESTS:
            found.append(_share(at, domain, counts, totals))
        versions = {row.version for row in sides[0]} & {row.version for row in sides[1]} - {0}
        found += [_accept(at, domain, version, sides) for version in sorted(versions)]
    return [drift for drift in found if drift is not None]


def _share(at: int, domain: str, counts: Sequence[int], totals: Sequence[int]) -> Drift | None:
    shares = [count / total for count, total in zip(counts, totals, strict=True)]
    # One request more on either side of each: a share of 0 or 1 has an error too.
    padded = [(count + 1) / (total + 2) for count, total in zip(counts, totals, strict=True)]
    error = math.sqrt(sum(p * (1 - p) / (total + 2) for p, total in zip(padded, totals, strict=True)))
    change = abs(shares[1] - shares[0])
    if change < MIN_SHARE_CHANGE or change <= DRIFT_ERRORS * error:
        return None
    return Drift(at, domain, "share", None, shares[0], shares[1], change / error)


def _accept(at: int, domain: str, version: int, sides: Sequence[Sequence[DomainSums]]) -> Drift | None:
    before, after = (_sum(row.accept for row in side if row.version == version) for side in sides)
    moved = ratio_of_ratios(after, before, a_name="later", b_name="earlier", unit="windows")
    if moved.value is None or moved.high is None or before.ratio is None or after.ratio is None:
        return None
    error = math.log(moved.high / moved.value) / Z95
    change = abs(math.log(moved.value))
    if abs(moved.value - 1) < MIN_ACCEPT_CHANGE or change <= DRIFT_ERRORS * error:
        return None
    return Drift(at, domain, "accept length", version, before.ratio, after.ratio, change / error if error else math.inf)


def _sum(moments: Any) -> Moments:
    return reduce(lambda a, b: a + b, moments, NOTHING)


@dataclass(frozen=True, slots=True)
class Cell:
    """Accept length of one domain under one version."""

    version: int
    value: float | None
    low: float | None
    high: float | None
    num_verify_steps: int


@dataclass(frozen=True, slots=True)
class DomainLine:
    """One domain over the whole time."""

    domain: str
    num_requests: int
    share: float
    total: Cell
    cells: tuple[Cell, ...]


def heatmap(
    rows: Sequence[DomainSums], expected: Sequence[str] = (), max_versions: int = 12
) -> tuple[list[int], list[DomainLine]]:
    """The newest versions that were measured, and per domain (most requests first) the accept length under each.

    Domains that are ``expected`` have a line before their first request.
    """
    measured = sorted({row.version for row in rows if row.accept.sum_y > 0})[-max_versions:]
    total = sum(row.num_requests for row in rows)
    by_domain: dict[str, list[DomainSums]] = {name: [] for name in expected}
    for row in rows:
        by_domain.setdefault(row.domain, []).append(row)
    lines = []
    for domain, mine in by_domain.items():
        num_requests = sum(row.num_requests for row in mine)
        cells = tuple(_cell(v, _sum(r.accept for r in mine if r.version == v)) for v in measured)
        share = num_requests / total if total else 0.0
        lines.append(DomainLine(domain, num_requests, share, _cell(0, _sum(r.accept for r in mine)), cells))
    return measured, sorted(lines, key=lambda line: (-line.num_requests, line.domain))


def _cell(version: int, accept: Moments) -> Cell:
    return Cell(version, accept.ratio, *interval_of(accept), int(accept.sum_y))


def interval_of(moments: Moments) -> tuple[float | None, float | None]:
    """The 95 % interval of a ratio; (None, None) where there are too few units to know."""
    variance = moments.relative_variance()
    if moments.ratio is None or variance is None or moments.n < MIN_REQUESTS:
        return None, None
    half = student(moments.n - 1.0) * math.sqrt(variance) * moments.ratio
    return max(0.0, moments.ratio - half), moments.ratio + half


def trend(rows: Sequence[DomainSums]) -> list[dict[str, Any]]:
    """Points per window and domain, oldest first: counts, share of the window's requests, and accept_length (None
    where nothing was drafted)."""
    points: dict[tuple[int, str], list[DomainSums]] = defaultdict(list)
    totals: dict[int, int] = defaultdict(int)
    for row in rows:
        points[row.at, row.domain].append(row)
        totals[row.at] += row.num_requests
    return [_point(at, domain, points[at, domain], totals[at]) for at, domain in sorted(points)]


def _point(at: int, domain: str, group: Sequence[DomainSums], total: int) -> dict[str, Any]:
    accept = _sum(row.accept for row in group)
    num_requests = sum(row.num_requests for row in group)
    return {
        "at": at,
        "domain": domain,
        "num_requests": num_requests,
        "share": num_requests / total if total else None,
        "num_accept_tokens": int(accept.sum_x),
        "num_verify_steps": int(accept.sum_y),
        "accept_length": accept.ratio,
    }
