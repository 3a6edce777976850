"""The switches of a target's page: pause, resume, train now, freeze, unfreeze."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404

from aurora_web.accounts.access import allow, user_of
from aurora_web.console.back import back_to
from aurora_web.registry.models import Target
from aurora_web.rollouts import freeze as freezes
from aurora_web.rollouts.intent import RolloutError
from aurora_web.training import control
from aurora_web.training.control import TrainingRefused

Switch = Callable[[Target, str, str], object]
SWITCHES: dict[str, tuple[Switch, str]] = {
    "pause": (control.pause, "Training is paused: no further slice starts; one that runs comes to its end."),
    "resume": (control.resume, "Training goes on."),
    "now": (control.train_now, "A training slice is queued."),
    "freeze": (freezes.freeze, "Frozen: versions are trained and judged, but none goes live by itself."),
    "unfreeze": (freezes.unfreeze, "Unfrozen: the policy decides again."),
}


def _turn(request: HttpRequest, slug: str, name: str) -> HttpResponse:
    target = get_object_or_404(Target, slug=slug)
    act, done = SWITCHES[name]
    try:
        act(target, user_of(request).username, request.POST.get("reason", "").strip()[:500])
    except (TrainingRefused, RolloutError) as error:
        messages.error(request, f"Nothing was changed: {error}.")
    else:
        messages.success(request, done)
    return back_to(request, "console:target", slug)


@allow("operate", "POST")
def pause(request: HttpRequest, slug: str) -> HttpResponse:
    return _turn(request, slug, "pause")


@allow("operate", "POST")
def unpause(request: HttpRequest, slug: str) -> HttpResponse:
    return _turn(request, slug, "resume")


@allow("operate", "POST")
def train_now(request: HttpRequest, slug: str) -> HttpResponse:
    return _turn(request, slug, "now")


@allow("operate", "POST")
def freeze(request: HttpRequest, slug: str) -> HttpResponse:
    return _turn(request, slug, "freeze")


@allow("operate", "POST")
def unfreeze(request: HttpRequest, slug: str) -> HttpResponse:
    return _turn(request, slug, "unfreeze")
