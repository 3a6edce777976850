"""Which versions of a target are looked for: by status, age, and text."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Q, QuerySet

from aurora_web.registry.models import SpeculatorVersion, Target

LONGEST_TEXT = 100


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
