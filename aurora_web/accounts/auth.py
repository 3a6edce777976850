"""Who calls the API: a bearer token, or the browser's session (with CSRF protection)."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpRequest
from ninja.utils import check_csrf

from aurora_web.accounts import scopes
from aurora_web.accounts.models import User
from aurora_web.accounts.services import authenticate_token
from aurora_web.problems import Problem
from aurora_web.wire import BodySchema, ReasonText


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: a name for the activity log, and what it may do."""

    name: str
    scopes: frozenset[str]
    owner: User | None = None  # the person, or the one whose role bounds the token
    role: str = ""  # of the person or of the token; "" = the token's scopes were named one by one


class Allow:
    """Lets callers with one scope (accounts/scopes.py) in; 401 or 403 otherwise, which names the scope."""

    openapi_type = "http"
    openapi_scheme = "bearer"

    def __init__(self, scope: str) -> None:
        self.scope = scopes.known(scope)

    def __call__(self, request: HttpRequest) -> Principal:
        principal = principal_of(request)
        scopes.check(self.scope, principal.scopes, principal.name)
        return principal


def caller(request: HttpRequest) -> Principal:
    """Who calls; only in an operation behind ``Allow``."""
    found: Principal = request.auth  # type: ignore[attr-defined]  # set by ninja from Allow
    return found


class Reason(BodySchema):
    """Why; it is kept in the audit log."""

    reason: ReasonText = ""


def said_by(request: HttpRequest, body: Reason | None) -> tuple[str, str]:
    """(who calls, why): what a change of state is recorded with."""
    return caller(request).name, body.reason if body else ""


def principal_of(request: HttpRequest) -> Principal:
    """Who calls. Raises Problem (401, or 403 for a session without the CSRF token)."""
    header = request.headers.get("authorization", "")
    if header:
        scheme, _, secret = header.partition(" ")
        token = authenticate_token(secret.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise Problem(401, "the bearer token is unknown, expired or revoked")
        return Principal(f"token:{token.name}", token.scopes, token.owner, token.role)
    user = request.user
    if isinstance(user, User):
        if check_csrf(request) is not None:
            raise Problem(403, "the CSRF token is missing or wrong")
        return Principal(user.username, user.scopes, user, user.role)
    raise Problem(401, "send Authorization: Bearer <token>; manage.py create_token makes one")
