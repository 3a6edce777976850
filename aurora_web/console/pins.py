"""The part of the page about domains that fixes things for one of them."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render

from aurora_web.accounts.access import allow, user_of
from aurora_web.console.back import back_to
from aurora_web.console.forms import PinForm
from aurora_web.metrics.models import MetricWindow
from aurora_web.registry.models import Target
from aurora_web.rollouts.obedience import board
from aurora_web.traces import pins
from speculators.records import DomainPin

NUM_CHANGES = 5


def part(target: Target) -> dict[str, Any]:
    """What is pinned, who obeys it, and the last changes."""
    return {"target": target, "board": board(target), "pin_changes": pins.history(target, NUM_CHANGES)}


def empty_form(target: Target, domain: str) -> PinForm:
    """The form for one domain as it is pinned now; ``domain`` "" = for any."""
    newest = pins.newest_of(target, domain) if domain else None
    pin = newest.pin if newest else DomainPin(domain)
    return PinForm(initial=PinForm.initial_of(pin, newest.revision if newest else 0), most=target.max_lookahead)


def save(request: HttpRequest, target: Target) -> PinForm | None:
    """Do what the form asks for; the form with its problems, or None when it is done."""
    form = PinForm(request.POST, most=target.max_lookahead)
    if not form.is_valid():
        return form
    wanted, actor, reason = form.pin(), user_of(request).username, form.cleaned_data["reason"]
    try:
        if not wanted.kinds and wanted.domain in pins.held(target):
            pins.unpin(target, wanted.domain, actor, reason, form.expected)
            said = f"{wanted.domain} is not pinned any more."
        else:
            change = pins.pin(target, wanted, actor, reason, form.expected)
            said = f"Pinned {change}. Replicas take it up with their next report, for requests from then on."
            if not MetricWindow.objects.filter(target=target, domain=wanted.domain).exists():
                said += " No request of this domain has been counted so far: is the name right?"
    except pins.PinError as error:
        form.add_error(error.field, error.message)
        return form
    except pins.PinChanged as error:
        form.add_error(None, f"Nothing was changed: {error}. Look at it and decide again.")
        return form
    messages.success(request, said)
    return None


@allow("read")
def pins_part(request: HttpRequest, slug: str) -> HttpResponse:
    """Fetched again while the page is open: replicas take pins up within seconds."""
    return render(request, "console/_pins.html", part(get_object_or_404(Target, slug=slug)))


@allow("operate", "POST")
def undo_pin(request: HttpRequest, slug: str, revision: int) -> HttpResponse:
    """What held before one change holds again."""
    try:
        change = pins.undo(get_object_or_404(Target, slug=slug), revision, user_of(request).username)
    except pins.PinChanged as error:
        messages.error(request, f"Nothing was changed: {error}.")
    else:
        messages.success(request, f"Revision {revision} is undone. {change}.")
    return back_to(request, "console:domains", slug, part="pins")
