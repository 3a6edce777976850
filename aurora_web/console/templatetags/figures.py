"""How numbers and times are written on the pages; a missing one is a dash, never a zero."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

from django import template
from django.utils import timezone

from aurora_web import moments, numbers
from aurora_web.console.words import what_was_done
from aurora_web.registry.models import SpeculatorVersion
from aurora_web.rollouts.gate_table import judged_length

register = template.Library()
DASH = "–"
MISSING = (None, "")  # Django gives "" for an attribute that is not there
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+00:00")  # as the audit log keeps it
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@register.filter
def ratio(value: Any) -> str:
    """1.8342 -> 1.83"""
    return DASH if value in MISSING else f"{value:.2f}"


@register.filter
def replayed(version: SpeculatorVersion) -> str:
    """A version's accept length by replay: the number of its verdict and its report."""
    return ratio(judged_length(version))


@register.filter
def times(value: Any) -> str:
    """1.8342 -> 1.83×"""
    return DASH if value in MISSING else f"{value:.2f}×"


@register.filter
def rate(value: Any) -> str:
    """Tokens per second without decimals."""
    return DASH if value in MISSING else f"{value:,.0f}"


@register.filter
def grouped(value: Any) -> str:
    """1309 -> 1,309"""
    return DASH if value in MISSING else numbers.grouped(value)


@register.filter
def signed_percent(value: Any) -> str:
    """0.1234 -> +12.3 %"""
    return DASH if value in MISSING else numbers.signed_percent(value)


@register.filter
def difference(interval: Any) -> str:
    """A ratio of 1.05 with its interval -> +5.0 % (+1.2 % to +8.9 %); else the reason why there is none."""
    if interval.value is None:
        return str(interval.reason)
    middle, low, high = (signed_percent(each - 1) for each in (interval.value, interval.low, interval.high))
    return f"{middle} ({low} to {high})"


@register.filter
def size(num_bytes: Any) -> str:
    """Bytes in binary units."""
    if num_bytes in MISSING:
        return DASH
    unit = 0
    while num_bytes >= 1024 and unit < len(UNITS) - 1:
        num_bytes, unit = num_bytes / 1024, unit + 1
    return f"{num_bytes:.0f} {UNITS[unit]}" if unit == 0 else f"{num_bytes:.1f} {UNITS[unit]}"


@register.filter
def ago(at: datetime | None) -> str:
    """12 s ago, 3 min ago, 2 h ago, 5 d ago"""
    if at is None:
        return "never"
    seconds = max(0.0, (timezone.now() - at).total_seconds())
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (129600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{seconds / 86400:.0f} d ago"


@register.filter
def done(event: Any) -> str:
    """What an event of the audit log was, as a sentence without its actor."""
    return what_was_done(event.action, event.subject, event.reason, event.detail)


@register.filter
def done_without_why(event: Any) -> str:
    """The same for a page that gives the reason a place of its own."""
    return what_was_done(event.action, event.subject, "", event.detail)


@register.filter
def older_than(at: datetime, age: timedelta) -> bool:
    """Whether a moment lies further back than that."""
    return timezone.now() - at > age


@register.filter
def short_digest(sha256: str) -> str:
    """The first characters of a checksum."""
    return sha256[:12] if sha256 else DASH


@register.filter
def status_words(status: str) -> str:
    """rolled_back -> rolled back"""
    return status.replace("_", " ")


@register.filter
def lookup(mapping: dict[Any, Any], key: Any) -> Any:
    """mapping[key], None when it is not there."""
    return mapping.get(key)


@register.filter
def minus(value: int, other: int) -> int:
    """7 and 2 -> 5"""
    return value - other


@register.filter
def percent(value: Any) -> str:
    """0.123 -> 12.3 %"""
    return DASH if value in MISSING else numbers.percent(value)


@register.filter
def duration(seconds: Any) -> str:
    """90 -> 90 s, 600 -> 10.0 min, 9000 -> 2.5 h"""
    if seconds in MISSING:
        return DASH
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if abs(seconds) < limit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds / 86400:,.1f} d"


@register.filter
def in_words(value: Any) -> str:
    """A value of the audit log as people read it: yes, no, a dash for nothing, times of their zone, else JSON."""
    if value in MISSING:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return _moment(value) if _TIME.fullmatch(value) else value
    return json.dumps(value, ensure_ascii=False)


def _moment(text: str) -> str:
    try:
        return moments.said(datetime.fromisoformat(text))
    except ValueError:
        return text  # it only looks like one


@register.filter
def unlocalized(value: Any) -> str:
    """A number as an input field wants it: 15.0 -> 15, 0.5 -> 0.5"""
    return DASH if value in MISSING else f"{value:.12g}"


@register.filter
def for_input(text: Any) -> str:
    """A time of an address (UTC) as a field for times wants it, in the reader's zone."""
    return moments.for_input(str(text))
