"""The overview."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from aurora_web.accounts.access import allow
from aurora_web.accounts.models import AuditEvent
from aurora_web.console.cards import SORTS, STATES, cards, chosen_cards

SUPERVISOR = "supervisor"  # registers the demo on the first start


@allow("read")
def overview(request: HttpRequest) -> HttpResponse:
    """One card per target, what waits for a person, and what happened last; filter and order are in the address."""
    chosen = {name: request.GET.get(name, "").strip() for name in ("q", "state", "sort")}
    if chosen["state"] not in STATES:
        chosen["state"] = ""
    if chosen["sort"] not in SORTS:
        chosen["sort"] = "name"
    found = cards()
    makers = {card.target.slug: card.target.created_by for card in found}
    context = {
        "cards": chosen_cards(found, **chosen),
        "chosen": chosen,
        "states": STATES,
        "sorts": SORTS,
        "is_filtered": bool(chosen["q"] or chosen["state"]),
        "num_targets": len(makers),
        "demo": next((slug for slug, maker in makers.items() if maker == SUPERVISOR), ""),
        "has_own": any(maker != SUPERVISOR for maker in makers.values()),
        "events": AuditEvent.objects.all()[:12],
    }
    return render(request, "console/_overview.html" if _is_part(request) else "console/overview.html", context)


def _is_part(request: HttpRequest) -> bool:
    return bool(getattr(request, "htmx", False))
