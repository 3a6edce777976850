"""The time range of a page: a name or from/to, both from the address, so that a link shows the same again."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from django.http import QueryDict

from aurora_web.moments import as_typed, in_utc, said

RANGES = {"5m": 300, "30m": 1800, "3h": 10800, "24h": 86400}
DEFAULT_RANGE = "30m"
MAX_SECONDS = 28 * 86400.0
MIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Unix seconds; ``name`` is "" for a custom one, ``problem`` says why a custom one was not taken."""

    name: str
    since: float
    until: float
    is_open: bool  # ends now, and goes on
    problem: str = ""

    @property
    def seconds(self) -> float:
        return self.until - self.since

    @property
    def words(self) -> str:
        """last 30 minutes; 2026-11-24 10:00 CET to 2026-11-24 12:00 CET"""
        if self.name:
            minutes = RANGES[self.name] // 60
            return f"last {minutes} minutes" if minutes <= 180 else f"last {minutes // 60} hours"
        begin, end = (datetime.fromtimestamp(at, UTC) for at in (self.since, self.until))
        return f"{said(begin, '%Y-%m-%d %H:%M')} to {'now' if self.is_open else said(end, '%Y-%m-%d %H:%M')}"

    @property
    def query(self) -> str:
        """The range for an address."""
        if self.name:
            return urlencode({"range": self.name})
        parts = {"from": _written(self.since)} | ({} if self.is_open else {"to": _written(self.until)})
        return urlencode(parts)


def _written(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S}"


def time_range(query: QueryDict, now: float | None = None) -> TimeRange:
    """``?range=30m`` or ``?from=2026-01-31T10:00&to=2026-01-31T12:00`` ; without to = until now.

    Times without an offset are of ``zone``, else UTC.
    """
    typed, query = query, in_utc(query, ("from", "to"))
    now = time.time() if now is None else now
    name = query.get("range", "")
    begin, end = query.get("from", "").strip(), query.get("to", "").strip()
    problem = ""
    if begin or end:
        custom, problem = _custom(begin, end, now)
        if custom is not None:
            return custom
        problem = f"{as_typed(typed, 'from', 'to')} {problem}"
    name, unknown = named(name, RANGES, DEFAULT_RANGE)
    return TimeRange(name, now - RANGES[name], now, True, problem or unknown)


def named(asked: str, known: Iterable[str], default: str) -> tuple[str, str]:
    """(the range of this name or the default, what is wrong with a name that is none)."""
    if not asked:
        return default, ""
    names = list(known)
    return (
        (asked, "") if asked in names else (default, f"{asked!r:.40} is no range: expected one of {', '.join(names)}")
    )


def _custom(begin: str, end: str, now: float) -> tuple[TimeRange | None, str]:
    """The range, or None and what is wrong with it."""
    try:
        since, until = _moment(begin), _moment(end) if end else now
    except ValueError:
        return None, "is no range: expected times like 2026-01-31T10:00"
    if until - since < MIN_SECONDS:
        return None, "is no range: its end has to be a minute after its beginning or later"
    if until - since > MAX_SECONDS:
        return None, f"is more than {MAX_SECONDS / 86400:.0f} days: choose a shorter range"
    return TimeRange("", since, min(until, now), not end or until >= now), ""


def _moment(text: str) -> float:
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
