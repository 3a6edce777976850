"""Which versions of a target are looked for, by status, age, and text; and in which order."""

from __future__ import annotations

from datetime import datetime

from django.db.models import F, Q, QuerySet

from aurora_web.registry.models import SpeculatorVersion, Target

LONGEST_TEXT = 100
SORTS = {
    "newest": ("Newest first", [F("number").desc()]),
    "oldest": ("Oldest first", [F("number").asc()]),
    "gain": ("Largest gain", [F("gate_decision__gain").desc(nulls_last=True), F("number").desc()]),
    "loss": ("Smallest gain", [F("gate_decision__gain").asc(nulls_last=True), F("number").desc()]),
}


def search(
    target: Target, *, status: str = "", created_since: datetime | None = None, text: str = ""
) -> QuerySet[SpeculatorVersion]:
    """Versions that have all of these; ``text``: a number (7 or v7), a checksum's beginning, or words of the gate."""
    found = SpeculatorVersion.objects.filter(target=target)
    if status:
        found = found.filter(status=status)
    if created_since:
        found = found.filter(created_at__gte=created_since)
    if text:
        matches = Q(sha256__startswith=text.lower()) | Q(gate_decision__reasons__icontains=text)
        number = text.removeprefix("v")
        if number.isascii() and number.isdigit() and len(number) < 9:
            matches |= Q(number=int(number))
        found = found.filter(matches)
    return found


def page(
    found: QuerySet[SpeculatorVersion], sort: str, after: int, limit: int
) -> tuple[list[SpeculatorVersion], str | None]:
    """``limit`` versions in an order of SORTS from a place on (0 = the first), and the next place.

    Of the newest it is a number, so that versions which come meanwhile move no page; else how many came before.
    """
    ordered = found.order_by(*SORTS[sort][1])
    if sort == "newest":
        rows = list((ordered.filter(number__lt=after) if after else ordered)[: limit + 1])
        following = rows[limit - 1].number if len(rows) > limit else None
    else:
        rows = list(ordered[after : after + limit + 1])
        following = after + limit if len(rows) > limit else None
    return rows[:limit], None if following is None else str(following)
