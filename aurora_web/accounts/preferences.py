"""Theme and time zone of whoever reads: kept with the person, so that another browser has them, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from aurora_web.accounts.models import Theme, User
from aurora_web.accounts.services import AccountError, record
from aurora_web.moments import UnknownZone, zone_named

COOKIE = "zone"  # the browser's own zone, noted by static/js/theme.js
DEFAULT = "UTC"


def zone_of(request: HttpRequest) -> str:
    """The zone that a person chose, else the browser's, else UTC."""
    user = request.user
    chosen = user.time_zone if isinstance(user, User) else ""
    return _usable(chosen) or browser_zone_of(request)


def browser_zone_of(request: HttpRequest) -> str:
    """The zone that the browser told, else UTC."""
    return _usable(request.COOKIES.get(COOKIE, "")) or DEFAULT


def _usable(name: str) -> str:
    """The name, "" where this machine does not know it: a browser, or a person's row, may know others."""
    try:
        return zone_named(name).key if name else ""
    except UnknownZone:
        return ""


class TimeZoneMiddleware:
    """Pages are written in the reader's zone; the API answers in UTC. Must come after authentication."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path.startswith("/api/"):
            return self.get_response(request)
        with timezone.override(zone_of(request)):
            return self.get_response(request)


def reader(request: HttpRequest) -> dict[str, Any]:
    """For the templates: ``zone`` and ``theme``, "" for somebody who has not signed in."""
    user = getattr(request, "user", None)
    return {"zone": timezone.get_current_timezone_name(), "theme": user.theme if isinstance(user, User) else ""}


@transaction.atomic
def set_preferences(user: User, actor: str = "", **chosen: str) -> None:
    """Change ``theme``, ``time_zone`` ("" = the browser's) or both. Raises AccountError.

    ``actor``: "" = the person.
    """
    if "theme" in chosen and chosen["theme"] not in Theme.values:
        raise AccountError(f"theme is {chosen['theme']!r:.40}: expected one of {', '.join(Theme.values)}")
    if chosen.get("time_zone"):
        try:
            zone_named(chosen["time_zone"])
        except UnknownZone as error:
            raise AccountError(str(error)) from error
    old = {name: getattr(user, name) for name, value in chosen.items() if getattr(user, name) != value}
    if not old:
        return
    for name in old:
        setattr(user, name, chosen[name])
    user.save(update_fields=list(old))
    detail = {"old": old, "new": {name: chosen[name] for name in old}}
    record(actor or user.username, "user.preferences", f"user {user.username}", detail=detail)
