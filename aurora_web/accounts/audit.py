"""Questions about the audit log: filters, pages by cursor, and rows as the API and the exports give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from django.db.models import Max, Q, QuerySet

from aurora_web.accounts.models import AuditEvent
from aurora_web.moments import moment_of

PAGE = 50
MAX_EXPORT = 50_000
NUM_RECENT = 5_000  # events among which the names for the filters' suggestions are looked for
COLUMNS = ("id", "at", "actor", "action", "subject", "target", "reason", "request_id", "before", "after", "detail")


class WrongFilter(ValueError):
    """A filter that cannot be understood; the message names the value and what would be right."""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What somebody looks for; "" = anything."""

    actor: str = ""
    action: str = ""  # a whole action, or its beginning up to a dot: "version."
    target: str = ""
    q: str = ""  # in subject, reason, actor, action or detail
    request_id: str = ""
    since: str = ""  # as moments.moment_of reads it
    until: str = ""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> AuditFilter:
        """From a query string."""
        return cls(**{f.name: str(given.get(f.name, "")).strip().replace("\0", "")[:200] for f in fields(cls)})

    @property
    def is_empty(self) -> bool:
        return self == AuditFilter()

    def apply(self) -> QuerySet[AuditEvent]:
        """The events, newest first. Raises WrongMoment."""
        found = AuditEvent.objects.order_by("-id")
        for name, lookup in (("target", "target_slug"), ("request_id", "request_id"), ("actor", "actor")):
            if value := getattr(self, name):
                found = found.filter(**{lookup: value})
        if self.action:
            found = found.filter(**{"action__startswith" if self.action.endswith(".") else "action": self.action})
        if since := moment_of("since", self.since):
            found = found.filter(at__gte=since)
        if until := moment_of("until", self.until):
            found = found.filter(at__lt=until)
        if self.q:
            found = found.filter(_contains(self.q))
        return found


def _contains(text: str) -> Q:
    parts = (Q(**{f"{name}__icontains": text}) for name in ("subject", "reason", "actor", "action", "detail"))
    found = Q()
    for part in parts:
        found |= part
    return found


def page(given: AuditFilter, cursor: str = "", limit: int = PAGE) -> tuple[list[AuditEvent], str | None]:
    """Events older than ``cursor``, newest first, and the cursor of the next page (None on the last).

    Raises WrongFilter, WrongMoment.
    """
    found = given.apply()
    if cursor:
        if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise WrongFilter(f"cursor is {cursor!r:.80}, expected the value of next")
        found = found.filter(id__lt=int(cursor))
    events = list(found[: limit + 1])
    return events[:limit], str(events[limit - 1].pk) if len(events) > limit else None


def event_payload(event: AuditEvent) -> dict[str, Any]:
    """One event as the API and the exports give it."""
    return {
        "id": event.pk,
        "at": event.at.isoformat(),
        "actor": event.actor,
        "action": event.action,
        "subject": event.subject,
        "target": event.target_slug,
        "reason": event.reason,
        "request_id": event.request_id,
        "before": event.before,
        "after": event.after,
        "detail": event.detail,
    }


def exported(given: AuditFilter) -> Iterator[dict[str, Any]]:
    """At most MAX_EXPORT rows, newest first. Raises WrongMoment."""
    return (event_payload(event) for event in given.apply()[:MAX_EXPORT].iterator(chunk_size=1000))


def suggestions() -> dict[str, list[str]]:
    """Actors and actions among the latest events."""
    newest = AuditEvent.objects.aggregate(n=Max("id"))["n"] or 0
    recent = AuditEvent.objects.filter(id__gt=newest - NUM_RECENT).order_by()
    return {f"{name}s": sorted(set(recent.values_list(name, flat=True).distinct())) for name in ("actor", "action")}
