"""The figures of many targets at once, for the overview: one question, and one calculation of all bands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.db import connection

from aurora_web.metrics.bands import trailing_speedups
from aurora_web.metrics.ratios import NOTHING_MEASURED, Interval, divide
from aurora_web.metrics.rollups import DRAFTED_STEPS, DRAFTED_TOKENS
from aurora_web.metrics.settled import settled

# Two groupings of one reading: strata of the speedup (is_stratum), and versions.
_FIGURES = f"""
SELECT target_id, GROUPING(version) = 1 AS is_stratum, domain, batch_bucket, version = 0 AS is_control, version,
       sum(num_requests) FILTER (WHERE version = 0 OR lookahead > 0)::bigint,
       sum(num_accept_tokens) FILTER (WHERE version = 0 OR lookahead > 0)::float8,
       sum(decode_seconds) FILTER (WHERE version = 0 OR lookahead > 0),
       sum(sum_xx) FILTER (WHERE version = 0 OR lookahead > 0),
       sum(sum_yy) FILTER (WHERE version = 0 OR lookahead > 0),
       sum(sum_xy) FILTER (WHERE version = 0 OR lookahead > 0),
       sum(num_accept_tokens)::bigint,
       sum({DRAFTED_TOKENS}) FILTER (WHERE version > 0 AND lookahead > 0)::bigint,
       sum({DRAFTED_STEPS}) FILTER (WHERE version > 0 AND lookahead > 0)::bigint
FROM metrics_metricwindow WHERE target_id = ANY(%s) AND started_at >= %s AND started_at < %s
GROUP BY GROUPING SETS ((target_id, domain, batch_bucket, version = 0), (target_id, version))
ORDER BY 1, 2, 3, 4, 5, 6
"""


@dataclass(slots=True)
class FleetFigures:
    """One target; ratios are None where there is nothing to divide."""

    speedup: Interval = NOTHING_MEASURED
    tokens_by_version: dict[int, int] = field(
        default_factory=dict
    )  # 0 = the control, NO_DRAFT; with or without speculation
    num_tokens: float = 0.0  # of requests with speculation
    seconds: float = 0.0
    num_control_tokens: float = 0.0
    control_seconds: float = 0.0
    num_drafted_tokens: int = 0  # of steps with drafts
    num_drafted_steps: int = 0

    def to_json(self) -> dict[str, Any]:
        """``{"speedup", "accept_length", "tokens_per_second", "control_tokens_per_second"}``."""
        return {
            "speedup": self.speedup.to_json(),
            "accept_length": divide(self.num_drafted_tokens, self.num_drafted_steps),
            "tokens_per_second": divide(self.num_tokens, self.seconds),
            "control_tokens_per_second": divide(self.num_control_tokens, self.control_seconds),
        }


MINUTE = 60.0


def fleet_figures(target_ids: Sequence[int], seconds: float, now: float) -> dict[int, FleetFigures]:
    """Of the last ``seconds`` before ``now`` (Unix seconds), from a whole minute on; every target has an entry.

    All but the last two minutes are read once a minute: counts that come later than that are seen a minute later.
    """
    last = now // MINUTE
    since, late = last * MINUTE - seconds, (last - 1) * MINUTE
    ids = tuple(sorted(target_ids))
    before = settled.get(("fleet", ids, since, late), lambda: _read(ids, since, late)) if since < late else []
    return _added(target_ids, [*before, *_read(ids, max(since, late), now + MINUTE)])


def _read(target_ids: Sequence[int], since: float, until: float) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            _FIGURES, [list(target_ids), datetime.fromtimestamp(since, UTC), datetime.fromtimestamp(until, UTC)]
        )
        return list(cursor.fetchall())


def _added(target_ids: Sequence[int], rows: Iterable[tuple[Any, ...]]) -> dict[int, FleetFigures]:
    found = {pk: FleetFigures() for pk in target_ids}
    place = {pk: i for i, pk in enumerate(target_ids)}
    strata: list[tuple[Any, ...]] = []
    for pk, is_stratum, domain, batch, is_control, version, *sums in rows:
        if not is_stratum:
            _add_version(found[pk], version, *sums[6:])
        elif sums[0] is not None:
            strata.append((place[pk], domain, batch, is_control, *sums[:6]))
            _add_speed(found[pk], is_control, *sums[1:3])
    for pk, speedup in zip(target_ids, trailing_speedups(strata, 0, len(target_ids), 1), strict=True):
        found[pk].speedup = speedup or NOTHING_MEASURED
    return found


def _add_version(figures: FleetFigures, version: int, tokens: int, drafted: int | None, steps: int | None) -> None:
    figures.tokens_by_version[version] = figures.tokens_by_version.get(version, 0) + tokens
    figures.num_drafted_tokens += drafted or 0
    figures.num_drafted_steps += steps or 0


def _add_speed(figures: FleetFigures, is_control: bool, tokens: float, seconds: float) -> None:
    if is_control:
        figures.num_control_tokens += tokens
        figures.control_seconds += seconds
    else:
        figures.num_tokens += tokens
        figures.seconds += seconds
