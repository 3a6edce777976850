"""What waits for a person, in the navigation of every page; counted at most once in a few seconds per process."""

from __future__ import annotations

from typing import Any

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.functional import SimpleLazyObject

from aurora_web.accounts.access import allow
from aurora_web.rollouts.approvals import waiting_for_person
from aurora_web.rollouts.models import Alert, AlertState

KEY = "console.inbox"
REMEMBER_SECONDS = 2


def counts(request: HttpRequest) -> dict[str, Any]:
    """For the templates; nothing is asked where a page does not show it."""
    return {"inbox": SimpleLazyObject(waiting)}


def waiting() -> dict[str, int]:
    """``{"num_to_approve", "num_firing"}``."""
    found: dict[str, int] | None = cache.get(KEY)
    if found is None:
        found = {
            "num_to_approve": waiting_for_person().count(),
            "num_firing": Alert.objects.filter(state=AlertState.FIRING).count(),
        }
        cache.set(KEY, found, REMEMBER_SECONDS)
    return found


@allow("read")
def inbox(request: HttpRequest) -> HttpResponse:
    """The two numbers, as parts that replace those of the navigation."""
    return render(request, "console/_inbox.html", {"is_part": True})
