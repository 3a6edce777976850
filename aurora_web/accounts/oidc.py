"""People who sign in through an OpenID Connect provider: who they are here, and what their groups let them do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from django.db import transaction

from aurora_web.accounts.models import OidcIdentity, Role, User
from aurora_web.accounts.services import AccountError, record, set_role
from aurora_web.environment import OpenIdConnect

ACTOR = "oidc"
RANKS = list(Role.values)  # the least first


class SignInRefused(Exception):
    """The provider knows the person, the console does not let them in; the message says why."""


def role_of(provider: OpenIdConnect, claims: Mapping[str, Any]) -> str:
    """The highest role among the person's groups. Raises SignInRefused when there is none."""
    value = claims.get(provider.role_claim, [])
    groups = {str(each) for each in (value if isinstance(value, list | tuple) else [value])} | {"*"}
    found = [role for group, role in provider.roles.items() if group in groups]
    if not found:
        known = ", ".join(provider.roles)
        raise SignInRefused(f"none of the groups that may use this console ({known}) is in your {provider.role_claim}")
    return max(found, key=RANKS.index)


def sign_in(provider: OpenIdConnect, claims: Mapping[str, Any]) -> User:
    """The person with these (validated) claims, made on the first time, with the role that the groups give now.

    Raises SignInRefused; what is refused is in the audit log, too.
    """
    try:
        return _sign_in(provider, claims)
    except SignInRefused as error:
        detail = {"issuer": provider.issuer, "subject": claims["sub"]}
        record(ACTOR, "user.refuse", f"user {_wanted_name(provider, claims)}", reason=str(error), detail=detail)
        raise


@transaction.atomic
def _sign_in(provider: OpenIdConnect, claims: Mapping[str, Any]) -> User:
    role = role_of(provider, claims)
    key = {"issuer": provider.issuer, "subject": str(claims["sub"])}
    known = OidcIdentity.objects.select_related("user").filter(**key).first()
    user = known.user if known else _create(provider, claims, role, key)
    if not user.is_active:
        raise SignInRefused(f"{user.username} is switched off here: ask an admin")
    if user.role != role:
        try:
            set_role(user, role, ACTOR)
        except AccountError as error:  # the last admin stays one, so that the console can still be looked after
            record(ACTOR, "user.role_kept", f"user {user.username}", reason=str(error), detail={"wanted": role})
            user.refresh_from_db()
    return user


def _create(provider: OpenIdConnect, claims: Mapping[str, Any], role: str, key: dict[str, str]) -> User:
    user = User(username=_free_name(provider, claims), email=str(claims.get("email", ""))[:254], role=role)
    user.set_unusable_password()
    user.save()
    OidcIdentity.objects.create(user=user, **key)
    record(ACTOR, "user.create", f"user {user.username} ({role})", detail={"new": {"role": role}, **key})
    return user


def _wanted_name(provider: OpenIdConnect, claims: Mapping[str, Any]) -> str:
    value = claims.get(provider.username_claim) or claims.get("email") or claims["sub"]
    return re.sub(r"[^\w.@+-]", "_", str(value))[:100]


def _free_name(provider: OpenIdConnect, claims: Mapping[str, Any]) -> str:
    """The name that the provider gives; where somebody has it already, with the provider's host.

    A name alone never opens an account that is here: whoever may choose names there could take one over.
    """
    name = _wanted_name(provider, claims)
    with_host = f"{name}@{urlsplit(provider.issuer).hostname}"[:140]
    for candidate in (name, with_host, *(f"{with_host}-{i}" for i in range(2, 100))):
        if not User.objects.filter(username__iexact=candidate).exists():
            return candidate
    raise SignInRefused(f"the user name {name} is taken")
