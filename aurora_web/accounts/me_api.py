"""Who calls, with which scopes, and the person's own theme and time zone."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Field, Router, Schema

from aurora_web.accounts.auth import Allow, Principal, caller
from aurora_web.accounts.preferences import set_preferences
from aurora_web.accounts.services import AccountError
from aurora_web.problems import Problem
from aurora_web.wire import BodySchema

router = Router(tags=["people and tokens"], auth=Allow("read"))


class MeOut(Schema):
    name: str = Field(description="as the audit log names the caller: a user name, or token: and the token's name")
    role: str = Field(description="of the person or of the token; empty: the token's scopes were named one by one")
    scopes: list[str] = Field(description="what the caller may do now")
    username: str | None = Field(description="the person, or the one whose role bounds the token; null = nobody")
    theme: str | None = Field(description="the person's: system, light or dark")
    time_zone: str | None = Field(description="the person's, like Europe/Berlin; empty = the browser's")


class MeIn(BodySchema):
    """Only what is named changes."""

    theme: str | None = Field(None, description="system, light or dark")
    time_zone: str | None = Field(None, description="like Europe/Berlin; empty = the browser's. The API stays in UTC.")


@router.get("/me", response=MeOut)
def get_me(request: HttpRequest) -> dict[str, Any]:
    """Who calls, and what the caller may do; with the person's own settings of the pages."""
    return _payload(caller(request))


@router.patch("/me", response=MeOut)
def change_me(request: HttpRequest, body: MeIn) -> dict[str, Any]:
    """Change the person's own theme or time zone; 409 for a token that belongs to nobody."""
    who = caller(request)
    if who.owner is None:
        raise Problem(409, f"{who.name} belongs to no person, so it has no theme and no time zone")
    chosen = {name: value for name, value in body.dict().items() if value is not None}
    try:
        set_preferences(who.owner, actor=who.name, **chosen)
    except AccountError as error:
        raise Problem(422, str(error)) from error
    return _payload(who)


def _payload(who: Principal) -> dict[str, Any]:
    person = who.owner
    return {
        "name": who.name,
        "role": who.role,
        "scopes": sorted(who.scopes),
        "username": person.username if person else None,
        "theme": person.theme if person else None,
        "time_zone": person.time_zone if person else None,
    }
