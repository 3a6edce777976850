"""What somebody may do, in words; and ``allows``, the one check that pages, API and sockets all call."""

from __future__ import annotations

from collections.abc import Collection

from django.core.exceptions import PermissionDenied

READ, INGEST, OPERATE, REGISTER, ADMINISTER = "read", "ingest", "operate", "register", "administer"
MEANINGS = {
    READ: "see and export everything that viewers see",
    INGEST: "report traces and counts, ask what to serve: for engines",
    OPERATE: "approve, decline, roll back, pause, freeze, silence",
    REGISTER: "register targets",
    ADMINISTER: "policies, people, tokens, channels, retention",
}
SCOPES: dict[str, frozenset[str]] = {
    "viewer": frozenset({READ}),
    "operator": frozenset({READ, OPERATE, REGISTER}),
    "admin": frozenset({READ, OPERATE, REGISTER, ADMINISTER}),
    "replica": frozenset({INGEST}),
}


class ScopeMissing(PermissionDenied):
    """403: ``scope`` is what the caller lacks."""

    def __init__(self, who: str, scope: str, words: str = "") -> None:
        super().__init__(words or f"{who} may not do this: it needs the scope {scope!r}")
        self.scope = scope


def known(scope: str) -> str:
    """The scope itself. Raises ValueError for one that nobody can have."""
    if scope not in MEANINGS:
        raise ValueError(f"scope {scope!r} is unknown: expected one of {', '.join(MEANINGS)}")
    return scope


def allows(has: Collection[str], scope: str) -> bool:
    """Whether somebody with the scopes ``has`` may do what ``scope`` is for: pages, API and sockets all ask here."""
    return known(scope) in has


def check(scope: str, has: Collection[str], who: str, words: str = "") -> None:
    """Raises ScopeMissing, which says ``words``, when ``who``, with the scopes ``has``, lacks ``scope``."""
    if not allows(has, scope):
        raise ScopeMissing(who, scope, words)


def people_with(scope: str) -> str:
    """Those whose role has the scope: operators and admins."""
    return " and ".join(f"{role}s" for role, has in SCOPES.items() if scope in has and role != "replica")


def grantable(has: frozenset[str]) -> frozenset[str]:
    """What somebody may put into a token: the own scopes; who may operate may let engines report, too."""
    return has | {INGEST} if has & {OPERATE, ADMINISTER} else has
