"""Names of domains that requests can have: what clients may send, and what the target's rules for names give."""

from __future__ import annotations

from collections.abc import Iterable

from django.core.exceptions import ValidationError

from aurora_web.registry.models import Target
from speculators.domain_names import CLIENTS_NAME

SENDABLE = "1 to 64 of a-z, 0-9, _ . -"
MAX_NAMED = 5


def given_by_rules(target: Target) -> set[str]:
    """Names that the rules which hold give."""
    return set(target.domain_rules.filter(ended_at=None).values_list("domain", flat=True))


def validate_sendable(names: Iterable[str], given: Iterable[str] = ()) -> None:
    """``given``: names that rules give. Raises ValidationError with the names that no request can ever have."""
    wrong = [repr(name)[:80] for name in names if not CLIENTS_NAME.fullmatch(name) and name not in given]
    if wrong:
        more = f" and {len(wrong) - MAX_NAMED} more" if len(wrong) > MAX_NAMED else ""
        says = f"{', '.join(wrong[:MAX_NAMED])}{more}: no request can have such a name"
        raise ValidationError(f"{says}. Expected {SENDABLE}, or a name that a rule for names gives")
