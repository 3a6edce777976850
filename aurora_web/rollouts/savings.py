"""Engine seconds that speculation saves, from counts of requests with drafts and of the control.

Per domain and batch size: the engine seconds that the tokens of speculative requests would have taken at the control's
seconds per token, less the seconds that they took. Requests of one batch share each step, so request seconds are
divided by the batch size (its bucket: rounded up, so that savings are understated rather than overstated).
The interval is that of the control's speed; strata without enough control blocks are left out and said.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import connection

from aurora_web.metrics import rollups
from aurora_web.metrics.models import HOUR
from aurora_web.metrics.ratios import MIN_REQUESTS, Z95, Interval, Moments
from aurora_web.registry.models import Target


@dataclass(frozen=True, slots=True)
class Stratum:
    """Speculative requests and the control of one domain and batch size."""

    domain: str
    batch_bucket: int
    num_requests: int
    num_tokens: int
    request_seconds: float
    num_proposed_drafts: int
    control: Moments  # per request: x = tokens, y = seconds
    num_undrafted: int = 0  # requests on neither side: a pin keeps them from drafts, or nothing is there that drafts


@dataclass(frozen=True, slots=True)
class Saving:
    """Engine seconds of one domain ("" = all)."""

    domain: str
    num_requests: int
    num_tokens: int
    spent_seconds: float  # by the covered tokens
    without_seconds: float | None  # what they would have taken
    saved: Interval  # seconds
    covered: float  # share of the tokens in strata with enough control blocks


_STRATUM = {
    "n": "num_requests",
    "x": "num_accept_tokens",
    "y": "decode_seconds",
    "xx": "sum_xx",
    "yy": "sum_yy",
    "xy": "sum_xy",
    "p": "num_proposed_drafts",
}
# Requests that a pin keeps from speculation are on neither side: nobody drew them for the control.
_SIDES = ", ".join(
    f"coalesce(sum({column}) FILTER (WHERE {side}), 0) AS {name}_{key}"
    for name, side in (("s", "version <> 0 AND lookahead > 0"), ("c", "version = 0"))
    for key, column in _STRATUM.items()
)
_UNDRAFTED = "coalesce(sum(num_requests) FILTER (WHERE version <> 0 AND lookahead = 0), 0) AS undrafted"
_STRATA = f"SELECT domain, batch_bucket, {_SIDES}, {_UNDRAFTED} FROM {{rows}} GROUP BY 1, 2 ORDER BY 1, 2"


def read_strata(target: Target, since: datetime, until: datetime) -> list[Stratum]:
    """The sums of a period per domain and batch size."""
    source = rollups.rows(target, since.timestamp(), until.timestamp(), tuple(_STRATUM.values()))
    with connection.cursor() as cursor:
        cursor.execute(_STRATA.format(rows=source.sql), source.values)
        names = [column.name for column in cursor.description or ()]
        return [_stratum(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def _stratum(row: Any) -> Stratum:
    n, *sums = (row[f"c_{key}"] for key in ("n", "x", "y", "xx", "yy", "xy"))
    control = Moments(int(n), *(float(value) for value in sums))
    counts = int(row["s_n"]), int(row["s_x"]), float(row["s_y"]), int(row["s_p"])
    return Stratum(row["domain"], row["batch_bucket"], *counts, control, int(row["undrafted"]))


_LAST_DRAFTED = """
SELECT date_part('epoch', started_at), version FROM {rows} WHERE num_proposed_drafts > 0 ORDER BY 1 DESC, 2 DESC LIMIT 1
"""


def last_drafted(target: Target, since: datetime, until: datetime) -> tuple[datetime, int] | None:
    """When the last drafts of a period were proposed, at most an hour too late, and by which version."""
    found = rollups.grouped(_LAST_DRAFTED, target, since.timestamp(), until.timestamp(), ("num_proposed_drafts",))
    if not found:
        return None
    started_at, version = max(found)
    return min(datetime.fromtimestamp(started_at + HOUR, UTC), until), int(version)


def saving(domain: str, strata: Sequence[Stratum]) -> Saving:
    """Engine seconds saved over some strata, with their 95 % interval."""
    spent = without = variance = 0.0
    covered = 0
    for stratum in strata:
        ratio, relative = stratum.control.ratio, stratum.control.relative_variance()
        if not stratum.num_tokens or stratum.control.n < MIN_REQUESTS or not ratio or relative is None:
            continue
        would = stratum.num_tokens / ratio / stratum.batch_bucket
        spent += stratum.request_seconds / stratum.batch_bucket
        without += would
        variance += would * would * relative
        covered += stratum.num_tokens
    tokens = sum(stratum.num_tokens for stratum in strata)
    saved = Interval(None, None, None, _missing(strata))
    if covered:
        half = Z95 * math.sqrt(variance)
        saved = Interval(without - spent, without - spent - half, without - spent + half)
    num_requests = sum(stratum.num_requests for stratum in strata)
    share = covered / tokens if tokens else 0.0
    return Saving(domain, num_requests, tokens, spent, without if covered else None, saved, share)


def busy_seconds(strata: Sequence[Stratum]) -> float:
    """Engine seconds that all requests took, those of the control too."""
    return sum((stratum.request_seconds + stratum.control.sum_y) / stratum.batch_bucket for stratum in strata)


def _missing(strata: Sequence[Stratum]) -> str:
    if not any(stratum.num_tokens for stratum in strata):
        return "no speculative request has finished in this time"
    num_control = sum(stratum.control.n for stratum in strata)
    return f"{num_control} control blocks, at least {MIN_REQUESTS} of one domain and batch size are needed"


def by_domain(strata: Sequence[Stratum]) -> list[Saving]:
    """Those with most tokens first."""
    groups: dict[str, list[Stratum]] = defaultdict(list)
    for stratum in strata:
        groups[stratum.domain].append(stratum)
    found = [saving(domain, group) for domain, group in groups.items()]
    return sorted(found, key=lambda each: (-each.num_tokens, each.domain))
