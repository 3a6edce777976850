"""Every write about people, tokens, invites and the audit log."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from aurora_web.accounts.models import ApiToken, AuditEvent, Invite, Role, TokenRole, User
from aurora_web.accounts.scopes import MEANINGS, SCOPES, ScopeMissing, grantable
from aurora_web.request_id import current_request_id
from aurora_web.request_reason import current_reason

TOKEN_PREFIX = "aur_"
LAST_USED_RESOLUTION = timedelta(minutes=1)


class AccountError(ValueError):
    """What a person asked for about an account cannot be done; the message says what would be right."""


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def record(
    actor: str,
    action: str,
    subject: str,
    *,
    target_slug: str = "",
    reason: str = "",
    detail: dict[str, Any] | None = None,
) -> AuditEvent:
    """Append one line to the audit log; ``detail["old"]`` and ``detail["new"]`` hold what changed, by field.

    Without a ``reason`` it is the one that came with the request, if any.
    """
    return AuditEvent.objects.create(
        actor=actor,
        action=action,
        subject=subject[:200],
        target_slug=target_slug,
        reason=reason or current_reason(),
        detail=detail or {},
        request_id=current_request_id(),
    )


@transaction.atomic
def create_token(
    name: str,
    role: str,
    actor: str,
    expires_at: datetime | None = None,
    *,
    scopes: Iterable[str] = (),
    owner: User | None = None,
    maker_scopes: frozenset[str] | None = None,
) -> tuple[ApiToken, str]:
    """A new API token and its secret, which is not kept.

    It has a ``role`` or ``scopes``, not both. ``maker_scopes``: of the one who makes it, who cannot give away more;
    None = made on the server. Raises AccountError, ScopeMissing.
    """
    granted = _granted(role, scopes)
    _may_give(granted, actor, maker_scopes)
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    token = ApiToken.objects.create(
        name=name,
        prefix=secret[:12],
        digest=_digest(secret),
        role=role,
        granted=[] if role else granted,
        owner=owner,
        created_by=actor,
        expires_at=expires_at,
    )
    new = {"scopes": granted} | ({"expires_at": expires_at.isoformat()} if expires_at else {})
    record(actor, "token.create", f"token {token}", detail={"new": new})
    return token, secret


def _may_give(scopes: Iterable[str], actor: str, maker_scopes: frozenset[str] | None) -> None:
    """Raises ScopeMissing where somebody would give away more than there is to give; None = has everything."""
    lacking = set() if maker_scopes is None else set(scopes) - grantable(maker_scopes)
    if lacking:
        raise ScopeMissing(actor, next(scope for scope in MEANINGS if scope in lacking))


def _granted(role: str, scopes: Iterable[str]) -> list[str]:
    """The scopes of a role, or those that were named, in the order of MEANINGS. Raises AccountError."""
    asked = set(scopes)
    if bool(role) == bool(asked):
        raise AccountError("a token has a role or scopes: name one of the two")
    if role and role not in TokenRole.values:
        raise AccountError(f"role {role!r} is unknown: expected one of {', '.join(TokenRole.values)}")
    if unknown := sorted(asked - MEANINGS.keys()):
        raise AccountError(f"scope {unknown[0]!r} is unknown: expected one of {', '.join(MEANINGS)}")
    return [scope for scope in MEANINGS if scope in (SCOPES[role] if role else asked)]


def authenticate_token(secret: str) -> ApiToken | None:
    """The usable token with this secret; None when there is none."""
    token = ApiToken.objects.filter(digest=_digest(secret)).select_related("owner").first()
    if token is None or not token.is_usable:
        return None
    now = timezone.now()
    if token.last_used_at is None or now - token.last_used_at > LAST_USED_RESOLUTION:
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)
    return token


@transaction.atomic
def revoke_token(token: ApiToken, actor: str) -> None:
    if ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now()):
        record(actor, "token.revoke", f"token {token}", detail={"old": {"is_valid": True}, "new": {"is_valid": False}})


@transaction.atomic
def create_invite(
    role: str,
    actor: str,
    lifetime: timedelta = timedelta(days=7),
    maker_scopes: frozenset[str] | None = None,
) -> tuple[Invite, str]:
    """A one-time invite and its secret, the last part of the link ``/accounts/invite/<secret>/``.

    ``maker_scopes``: of who asks, who can make nobody more than that; None = whoever runs a command on the machine.
    Raises AccountError and ScopeMissing.
    """
    if role not in Role.values:
        raise AccountError(f"role {role!r} is unknown: expected one of {', '.join(Role.values)}")
    _may_give(SCOPES[role], actor, maker_scopes)
    secret = secrets.token_urlsafe(24)
    invite = Invite.objects.create(
        digest=_digest(secret), role=role, created_by=actor, expires_at=timezone.now() + lifetime
    )
    new = {"role": role, "expires_at": invite.expires_at.isoformat()}
    record(actor, "invite.create", f"invite ({role})", detail={"new": new})
    return invite, secret


def find_invite(secret: str) -> Invite | None:
    """The usable invite with this secret; None when it is unknown, used or expired."""
    invite = Invite.objects.filter(digest=_digest(secret)).first()
    return invite if invite is not None and invite.is_usable else None


def open_invites() -> QuerySet[Invite]:
    """Those that somebody may still use, the first to end first."""
    return Invite.objects.filter(used_at=None, expires_at__gt=timezone.now()).order_by("expires_at", "pk")


@transaction.atomic
def revoke_invite(invite: Invite, actor: str) -> bool:
    """End an invite now; False where it was used, or had ended, before."""
    now = timezone.now()
    if not Invite.objects.filter(pk=invite.pk, used_at=None, expires_at__gt=now).update(expires_at=now):
        return False
    detail = {"old": {"is_valid": True}, "new": {"is_valid": False}}
    record(actor, "invite.revoke", f"invite ({invite.role})", detail=detail)
    return True


@transaction.atomic
def accept_invite(secret: str, username: str, password: str) -> User:
    """Create the invited user and use the invite up.

    Raises AccountError (invite not usable, user name taken) and ValidationError (password too weak).
    """
    won = Invite.objects.filter(Q(digest=_digest(secret), used_at=None, expires_at__gt=timezone.now()))
    if won.update(used_at=timezone.now()) != 1:
        raise AccountError("this invite has been used or has expired: ask for a new one")
    if User.objects.filter(username__iexact=username).exists():
        raise AccountError(f"the user name {username!r} is taken: choose another one")
    invite = Invite.objects.get(digest=_digest(secret))
    user = User(username=username, role=invite.role)
    user.full_clean(exclude=["password"])
    validate_password(password, user)
    user.set_password(password)
    user.save()
    invite.used_by = user
    invite.save(update_fields=["used_by"])
    new = {"role": invite.role, "invited_by": invite.created_by}
    record(username, "invite.accept", f"user {username} ({invite.role})", detail={"new": new})
    return user


@transaction.atomic
def set_role(user: User, role: str, actor: str, maker_scopes: frozenset[str] | None = None) -> None:
    """Change what a user may do. Raises AccountError rather than leave nobody with the role admin.

    ``maker_scopes`` as for an invite: raises ScopeMissing.
    """
    if role not in Role.values:
        raise AccountError(f"role {role!r} is unknown: expected one of {', '.join(Role.values)}")
    _may_give(SCOPES[role], actor, maker_scopes)
    if role != Role.ADMIN:
        _keep_an_admin(user)
    old, user.role = user.role, role
    user.save(update_fields=["role"])
    record(actor, "user.role", f"user {user.username}", detail={"old": {"role": old}, "new": {"role": role}})


@transaction.atomic
def set_active(user: User, is_active: bool, actor: str) -> None:
    """Switch an account off (sessions end, tokens do nothing but report) or on again.

    Raises AccountError rather than leave nobody with the role admin.
    """
    if not is_active:
        _keep_an_admin(user)
    if User.objects.filter(pk=user.pk).exclude(is_active=is_active).update(is_active=is_active):
        detail = {"old": {"is_active": not is_active}, "new": {"is_active": is_active}}
        record(actor, "user.active", f"user {user.username}", detail=detail)
    user.is_active = is_active


def _keep_an_admin(user: User) -> None:
    admins = User.objects.select_for_update(no_key=True).filter(role=Role.ADMIN, is_active=True).order_by("pk")
    if [admin.pk for admin in admins] == [user.pk]:
        raise AccountError(f"{user.username} is the last admin: make somebody else admin first")
