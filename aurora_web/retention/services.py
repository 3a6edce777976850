"""How long traces, hidden states, figures and versions' files are kept: read by the jobs that delete, set by admins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from django.conf import settings
from django.db import transaction

from aurora_web.accounts.services import record
from aurora_web.retention.models import Retention

ONLY = 1  # the row's key


class RetentionError(ValueError):
    """A value that cannot be used, or deletes what nobody confirmed; ``field`` is its name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Limit:
    """One value: what it is of, its bounds, and where its default comes from."""

    what: str
    unit: str
    low: float
    high: float
    variable: str

    def default(self) -> float:
        return float(getattr(settings, self.variable.removeprefix("AURORA_")))


LIMITS = {
    "trace_days": Limit("traces and loss charts", "days", 1, 3650, "AURORA_TRACE_DAYS"),
    "segment_hours": Limit("hidden states", "hours", 0.01, 24 * 365, "AURORA_SEGMENT_HOURS"),
    "figure_days": Limit("windows of figures", "days", 1, 3650, "AURORA_FIGURE_DAYS"),
    "num_versions": Limit("files of drafts", "newest versions of each target", 2, 10_000, "AURORA_KEEP_VERSIONS"),
}


@dataclass(frozen=True, slots=True)
class Kept:
    """What holds now."""

    trace_days: float
    segment_hours: float
    figure_days: float
    num_versions: int


def kept() -> Kept:
    """An admin's values, else the environment's."""
    values = {name: LIMITS[name].default() if value is None else value for name, value in chosen().items()}
    num_versions = int(values.pop("num_versions"))
    return Kept(**values, num_versions=num_versions)


def chosen() -> dict[str, float | None]:
    """What an admin has set; None = nothing, the environment's value holds."""
    row = Retention.objects.filter(pk=ONLY).first() or Retention()
    return {name: getattr(row, name) for name in LIMITS}


def payload() -> dict[str, Any]:
    """``{name: {"value", "default", "chosen", "unit", "what", "variable"}}``."""
    now, set_by_admin = asdict(kept()), chosen()
    return {
        name: {
            "value": now[name],
            "default": limit.default(),
            "chosen": set_by_admin[name],
            "unit": limit.unit,
            "what": limit.what,
            "variable": limit.variable,
        }
        for name, limit in LIMITS.items()
    }


def lowered(given: Mapping[str, float | None]) -> list[str]:
    """Sentences about what these values would delete."""
    now = asdict(kept())
    found = []
    for name, value in given.items():
        wanted = LIMITS[name].default() if value is None else value
        if wanted < now[name]:
            limit = LIMITS[name]
            found.append(f"{limit.what}: from {now[name]:g} down to {wanted:g} {limit.unit}")
    return found


@transaction.atomic
def change(given: Mapping[str, Any], actor: str, *, is_confirmed: bool, reason: str = "") -> Kept:
    """Set some of the values; None = as the environment says. What is older is deleted within minutes.

    Raises RetentionError, for a lower value that is not confirmed, too.
    """
    values = {name: _checked(name, value) for name, value in given.items()}
    row, _ = Retention.objects.select_for_update().get_or_create(pk=ONLY)
    if (deleted := lowered(values)) and not is_confirmed:
        raise RetentionError("is_confirmed", f"This deletes for ever ({'; '.join(deleted)}): confirm it.")
    old = {name: getattr(row, name) for name, value in values.items() if getattr(row, name) != value}
    if old:
        for name in old:
            setattr(row, name, values[name])
        row.save(update_fields=list(old))
        detail = {"old": old, "new": {name: values[name] for name in old}}
        record(actor, "retention.change", "retention", reason=reason, detail=detail)
    return kept()


def _checked(name: str, value: Any) -> float | None:
    if name not in LIMITS:
        raise RetentionError(name, f"{name!r:.40} is unknown: expected one of {', '.join(LIMITS)}")
    if value is None:
        return None
    limit = LIMITS[name]
    right = f"expected {limit.low:g} to {limit.high:g} {limit.unit}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RetentionError(name, f"{name} is {value!r:.40}: {right}")
    if not limit.low <= value <= limit.high:
        raise RetentionError(name, f"{name} is {value:g}: {right}")
    if name == "num_versions" and value != int(value):
        raise RetentionError(name, f"{name} is {value:g}: expected a whole number")
    return value
