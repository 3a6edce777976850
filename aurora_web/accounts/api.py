"""The audit log, API tokens, people and invites."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Field, Query, Router, Schema

from aurora_web import exports
from aurora_web.accounts import audit, services
from aurora_web.accounts.audit import AuditFilter, event_payload
from aurora_web.accounts.auth import Allow, caller
from aurora_web.accounts.models import ApiToken, AuditEvent, Invite, User
from aurora_web.accounts.scopes import MEANINGS
from aurora_web.problems import Problem
from aurora_web.wire import BodySchema, Documented, file_schema

audit_router = Router(tags=["audit"], auth=Allow("read"))
token_router = Router(tags=["people and tokens"], auth=Allow("administer"))
people_router = Router(tags=["people and tokens"], auth=Allow("administer"))
NEVER_STORED = "no-store"  # an answer that holds a secret


class AuditQuery(Schema):
    """Filters; empty ones are ignored."""

    actor: str = ""
    action: str = Field("", description="an action, or its beginning with the dot: version.")
    target: str = ""
    q: str = Field("", description="free text")
    request_id: str = ""
    since: str = Field("", description="ISO 8601")
    until: str = Field("", description="ISO 8601")


class AuditOut(Schema):
    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    target: str
    reason: str
    request_id: str
    before: dict[str, Any]
    after: dict[str, Any]
    detail: dict[str, Any]


class AuditPage(Schema):
    items: list[AuditOut]
    next: str | None = Field(description="pass as cursor to get older events; null on the last page")


@audit_router.get("", response=AuditPage)
def list_events(
    request: HttpRequest, given: Query[AuditQuery], cursor: str = "", limit: int = audit.PAGE
) -> dict[str, Any]:
    """Who did what, newest first."""
    if not 1 <= limit <= 500:
        raise Problem(422, f"limit is {limit}, expected 1 to 500")
    events, following = audit.page(AuditFilter.of(given.dict()), cursor, limit)
    return {"items": [event_payload(event) for event in events], "next": following}


@audit_router.get(
    "/export", response=None, openapi_extra=file_schema("The log as a file", "text/csv", "application/x-ndjson")
)
def export_events(request: HttpRequest, given: Query[AuditQuery], format: str = "csv") -> HttpResponse:
    """The filtered log as a file: ``format`` csv or jsonl; at most 50,000 rows, the newest."""
    if format not in {"csv", "jsonl"}:
        raise Problem(422, f"format is {format!r:.80}, expected csv or jsonl")
    rows = audit.exported(AuditFilter.of(given.dict()))
    if format == "csv":
        answer = HttpResponse(exports.to_csv(audit.COLUMNS, rows), content_type="text/csv; charset=utf-8")
    else:
        answer = HttpResponse(exports.to_json_lines(rows), content_type="application/x-ndjson")
    answer["Content-Disposition"] = f'attachment; filename="aurora-audit.{format}"'
    return answer


@audit_router.get("/{int:event_id}", response=AuditOut)
def get_event(request: HttpRequest, event_id: int) -> dict[str, Any]:
    event = AuditEvent.objects.filter(pk=event_id).first()
    if event is None:
        raise Problem(404, f"there is no audit event {event_id}")
    return event_payload(event)


class TokenOut(Schema):
    id: int
    name: str
    prefix: str
    role: str = Field(description="empty: the scopes were named one by one")
    scopes: list[str] = Field(description="what it may do now: never more than the role of the one who made it")
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    is_usable: bool

    @staticmethod
    def resolve_scopes(token: ApiToken) -> list[str]:
        return sorted(token.scopes)


class NewTokenOut(Schema):
    id: int
    name: str
    role: str
    scopes: list[str]
    token: str = Field(description="the secret: shown this once")


class TokenIn(BodySchema):
    name: str = Field(min_length=1, max_length=100)
    role: str = Field("", description="viewer, operator, admin or replica: the scopes of a role; or name scopes")
    scopes: list[str] = Field([], description=f"instead of a role: of {', '.join(MEANINGS)}")
    days: int | None = Field(None, ge=1, le=3650, description="until it expires; null = never")


@token_router.get("", response=list[TokenOut])
def list_tokens(request: HttpRequest) -> list[ApiToken]:
    """API tokens, newest first; no answer ever holds a secret but that of making one."""
    return list(ApiToken.objects.select_related("owner").order_by("-created_at"))


@token_router.post("", response={201: Annotated[dict[str, Any], Documented(NewTokenOut)]})
def create_token(request: HttpRequest, body: TokenIn, response: HttpResponse) -> tuple[int, dict[str, Any]]:
    """A new token; its secret is shown this once. 403 names a scope that the caller does not have."""
    expires_at = timezone.now() + timedelta(days=body.days) if body.days else None
    who = caller(request)
    token, secret = services.create_token(
        body.name, body.role, who.name, expires_at, scopes=body.scopes, owner=who.owner, maker_scopes=who.scopes
    )
    response["Cache-Control"] = NEVER_STORED
    return 201, {
        "id": token.pk,
        "name": token.name,
        "role": token.role,
        "scopes": sorted(token.scopes),
        "token": secret,
    }


@token_router.delete("/{int:token_id}", response=TokenOut)
def revoke_token(request: HttpRequest, token_id: int) -> ApiToken:
    """Revoke a token; a second time changes nothing."""
    token = ApiToken.objects.filter(pk=token_id).first()
    if token is None:
        raise Problem(404, f"there is no token with the id {token_id}")
    services.revoke_token(token, caller(request).name)
    token.refresh_from_db()
    return token


class UserOut(Schema):
    id: int
    username: str
    role: str
    is_active: bool
    last_login: datetime | None


class InviteOut(Schema):
    id: int
    role: str
    created_by: str
    created_at: datetime
    expires_at: datetime


class RoleIn(BodySchema):
    role: str


class UserIn(BodySchema):
    """Only what is named changes."""

    role: str | None = None
    is_active: bool | None = Field(None, description="false: sessions end, and the person's tokens only report")


@people_router.get("/users", response=list[UserOut])
def list_users(request: HttpRequest) -> list[User]:
    return list(User.objects.order_by("username"))


@people_router.patch("/users/{int:user_id}", response=UserOut)
def change_user(request: HttpRequest, user_id: int, body: UserIn) -> User:
    """Change what a person may do, or switch the account off; the last admin stays one."""
    user = User.objects.filter(pk=user_id).first()
    if user is None:
        raise Problem(404, f"there is no user with the id {user_id}")
    who = caller(request)
    with transaction.atomic():
        if body.role is not None:
            services.set_role(user, body.role, who.name, who.scopes)
        if body.is_active is not None:
            services.set_active(user, body.is_active, who.name)
    return user


@people_router.get("/invites", response=list[InviteOut])
def list_invites(request: HttpRequest) -> list[Invite]:
    """Invites that may still be used, the first to end first; no answer holds a link but that of making one."""
    return list(services.open_invites())


@people_router.delete("/invites/{int:invite_id}", response=InviteOut)
def revoke_invite(request: HttpRequest, invite_id: int) -> Invite:
    """End an invite: its link leads nowhere from now on. 409 where it was used, or had ended, before."""
    invite = Invite.objects.filter(pk=invite_id).first()
    if invite is None:
        raise Problem(404, f"there is no invite with the id {invite_id}")
    if not services.revoke_invite(invite, caller(request).name):
        raise Problem(409, f"the invite ({invite.role}) was used, or had ended, before: nothing was changed")
    invite.refresh_from_db()
    return invite


@people_router.post("/invites", response={201: dict[str, str]})
def create_invite(request: HttpRequest, body: RoleIn, response: HttpResponse) -> tuple[int, dict[str, str]]:
    """A link that creates one user of a role; it works once and is shown this once."""
    who = caller(request)
    _, secret = services.create_invite(body.role, who.name, maker_scopes=who.scopes)
    response["Cache-Control"] = NEVER_STORED
    return 201, {"role": body.role, "url": f"{settings.CONSOLE_URL}/accounts/invite/{secret}/"}
