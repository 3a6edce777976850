"""When a version was in service: periods read from its transitions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from aurora_web.registry.models import SpeculatorVersion, Status

IN_SERVICE = (Status.CANARY, Status.LIVE)


@dataclass(frozen=True, slots=True)
class Period:
    """From one transition into service until the one out of it."""

    status: str  # "canary" | "live"
    start: datetime
    end: datetime | None  # None = still
    began: str  # reasons, in words
    ended: str
    actor: str


def periods(version: SpeculatorVersion) -> list[Period]:
    """Newest first."""
    found: list[Period] = []
    rows = list(version.transitions.order_by("at", "id"))
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        if row.new in IN_SERVICE:
            end, why = (after.at, after.reason) if after else (None, "")
            found.append(Period(row.new, row.at, end, row.reason, why, row.actor))
    return found[::-1]
