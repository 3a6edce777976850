"""Times as people read and type them: in their zone, which is always named; what is stored and exported is UTC."""

from __future__ import annotations

import functools
import zoneinfo
from collections.abc import Iterable
from datetime import UTC, datetime

from django.http import QueryDict
from django.utils import timezone

ZONE = "zone"  # of the times without an offset in an address; without it they are UTC
_LIKE = "expected a name like Europe/Berlin or UTC"


class UnknownZone(ValueError):
    """A name that is no time zone; the message says what would be right."""


class WrongMoment(ValueError):
    """A text that is no time; ``message`` has the value and what would be right."""

    def __init__(self, name: str, text: str) -> None:
        right = "expected a time like 2026-05-01T14:30 (UTC), or Unix seconds"
        self.message = f"{text!r:.60} is none: {right}"
        super().__init__(f"{name} is {text!r:.60}, {right}")


@functools.cache
def zone_names() -> tuple[str, ...]:
    """Every zone that this machine knows, UTC first."""
    found = {name for name in zoneinfo.available_timezones() if "/" in name and not name.startswith("Etc/")}
    return ("UTC", *sorted(found))


def zone_named(name: str) -> zoneinfo.ZoneInfo:
    """Raises UnknownZone."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise UnknownZone(f"time zone {name!r:.80} is unknown: {_LIKE}") from None


def said(at: datetime, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """2026-11-24 14:03:05 CET, in the reader's zone."""
    return timezone.localtime(at).strftime(f"{form} %Z")


def moment_of(name: str, text: str) -> datetime | None:
    """The time that a script gives as ``name``: ISO 8601, UTC without an offset, or Unix seconds; None for "".

    Raises WrongMoment.
    """
    text = text.strip()
    if not text:
        return None
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (OverflowError, OSError):
        raise WrongMoment(name, text) from None
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (OverflowError, ValueError):  # too early or too late, once its offset is taken into account
        raise WrongMoment(name, text) from None


def in_utc(query: QueryDict, names: Iterable[str]) -> QueryDict:
    """The query with its times in UTC: those without an offset are of the query's ``zone``.

    A link means the same to everybody who opens it, whatever their own zone is. What is no time stays as it was typed.
    """
    name = query.get(ZONE, "")
    if not name:
        return query
    found = query.copy()
    del found[ZONE]
    try:
        zone = zone_named(name)
    except UnknownZone:
        return found
    for each in names:
        if each in found:
            found[each] = _utc(found.get(each, "").strip(), zone)
    return found


def _utc(text: str, zone: zoneinfo.ZoneInfo) -> str:
    try:
        at = datetime.fromisoformat(text)
        at = (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        return text
    return _of_field(at)


def for_input(text: str) -> str:
    """A time of an address (UTC without an offset) as a field for times wants it, in the reader's zone."""
    try:
        at = datetime.fromisoformat(text)
        at = timezone.localtime(at if at.tzinfo else at.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return text
    return _of_field(at)


def _of_field(at: datetime) -> str:
    """Without its zone; not by strftime, which writes the year 1 as 1, and nothing reads that again."""
    return at.replace(tzinfo=None).isoformat(timespec="seconds" if at.second else "minutes")


def as_typed(query: QueryDict, begin: str, end: str) -> str:
    """Two times of an address as they were typed, with their zone: 2026-11-30T09:00 to now (Asia/Kathmandu)."""
    try:
        zone = zone_named(query.get(ZONE, "") or "UTC").key
    except UnknownZone:
        zone = "UTC"  # as in_utc takes them
    since, until = (query.get(name, "").strip()[:60] for name in (begin, end))
    return f"{since or 'nothing'} to {until or 'now'} ({zone})"
