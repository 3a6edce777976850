"""The overview."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from aurora_web.accounts.access import allow
from aurora_web.accounts.models import AuditEvent
from aurora_web.console.cards import SORTS, STATES, cards, chosen_cards
from aurora_web.console.shared import seen_alike, shelf
from aurora_web.console.words import READINGS

SUPERVISOR = "supervisor"  # registers the demo on the first start


@allow("read")
def overview(request: HttpRequest) -> HttpResponse:
    """One card per target, what waits for a person, and what happened last; filter and order are in the address.

    As a part that is fetched again it is up to a second old, and rendered once for all who watch.
    """
    if not getattr(request, "htmx", False):
        return render(request, "console/overview.html", _overview(request))
    part = lambda: render(request, "console/_overview.html", _overview(request)).content  # noqa: E731
    return HttpResponse(shelf.get(seen_alike(request), part))


@allow("read")
def targets(request: HttpRequest) -> HttpResponse:
    """Typed by hand, from a target's address: the overview is the list."""
    return redirect("console:overview")


def _overview(request: HttpRequest) -> dict[str, Any]:
    chosen = {name: request.GET.get(name, "").strip() for name in ("q", "state", "sort")}
    if chosen["state"] not in STATES:
        chosen["state"] = ""
    if chosen["sort"] not in SORTS:
        chosen["sort"] = "name"
    found = cards()
    makers = {card.target.slug: card.target.created_by for card in found}
    return {
        "cards": chosen_cards(found, **chosen),
        "chosen": chosen,
        "states": STATES,
        "sorts": SORTS,
        "is_filtered": bool(chosen["q"] or chosen["state"]),
        "num_targets": len(makers),
        "demo": next((slug for slug, maker in makers.items() if maker == SUPERVISOR), ""),
        "has_own": any(maker != SUPERVISOR for maker in makers.values()),
        "events": AuditEvent.objects.exclude(action__in=READINGS)[:12],
    }
