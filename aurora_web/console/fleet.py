"""The parts of a target's page about its servers: connection, launch command, replicas, canary, alerts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone

from aurora_web.accounts.access import allow, user_of
from aurora_web.accounts.services import create_token
from aurora_web.console.back import back_to
from aurora_web.registry.launch import MAX_REPLICAS, TOKEN, VARIANTS, launch
from aurora_web.registry.models import Source, Target
from aurora_web.registry.sglang_check import SGLANG_VERSION
from aurora_web.rollouts import canaries
from aurora_web.rollouts.alerts import firing_alerts, threshold_of
from aurora_web.rollouts.approvals import inbox
from aurora_web.rollouts.canary_verdict import CanaryVerdict
from aurora_web.rollouts.fleet import standings
from aurora_web.rollouts.models import AlertState, Deployment, Rule

NUM_PAST_ALERTS = 10
NEW_TOKEN = "new_replica_token"


def connection_context(found: Target, deployment: Deployment | None = None) -> dict[str, Any]:
    """Who reports, and who once did; who has read the ``deployment`` gives it."""
    replicas = standings(found, deployment=deployment)
    alive = [standing for standing in replicas if standing.replica.is_alive]
    most = threshold_of(found, Rule.ACCEPT_LENGTH_DISAGREES)
    return {
        "target": found,
        "standings": replicas,
        "alive": alive,
        "apart": [each.replica.name for each in alive if most is not None and each.is_apart(most)],
        "sglang_version": SGLANG_VERSION,
    }


def launch_context(request: HttpRequest, found: Target) -> dict[str, Any]:
    """The command, as the address asks for it (``variant``, ``replica``); anything odd is the first choice."""
    variant = request.GET.get("variant", "")
    number = request.GET.get("replica", "")
    chosen = variant if variant in VARIANTS else "gpu"
    replica = int(number) if number.isascii() and number.isdigit() and len(number) < 4 else 1
    replica = min(max(replica, 1), MAX_REPLICAS)
    return {
        "target": found,
        "launch": launch(found, chosen, replica),
        "variants": VARIANTS,
        "variant": chosen,
        "replica_number": replica,
        "max_replicas": MAX_REPLICAS,
        "token_variable": TOKEN,
        "sglang_version": SGLANG_VERSION,
        "launch_asked": bool(variant or number),
    }


def alerts_context(found: Target) -> dict[str, Any]:
    """What is firing, and what was."""
    past = found.alerts.filter(state=AlertState.RESOLVED)
    return {"target": found, "alerts": list(firing_alerts(found)), "past_alerts": list(past[:NUM_PAST_ALERTS])}


def canary_context(found: Target) -> dict[str, Any]:
    """The canary and what it has measured so far."""
    deployment = deployment_of(found)
    if deployment is None or deployment.canary is None:
        return {"target": found, "canary": None}
    replicas = [standing for standing in standings(found, deployment=deployment) if standing.replica.is_canary]
    now = timezone.now()
    verdict = canaries.verdict(deployment, now)
    return {
        "target": found,
        "canary": deployment.canary,
        "canary_since": deployment.canary_started_at,
        "canary_replicas": replicas,
        "canary_live": deployment.desired,
        "canary_verdict": verdict,
        "canary_progress": _canary_progress(found, now - (deployment.canary_started_at or now), verdict),
    }


def _canary_progress(found: Target, elapsed: timedelta, verdict: CanaryVerdict | None) -> list[dict[str, Any]]:
    """What the policy asks a canary for and how much of it is there; nothing where it asks for nothing."""
    total = verdict.total if verdict else None
    asked = [
        ("minutes", "Minutes", elapsed.total_seconds() / 60, found.canary_minutes),
        ("requests", "Requests on the canary", total.canary_requests if total else 0, found.canary_min_requests),
        ("others", "Requests on the others", total.other_requests if total else 0, found.canary_min_requests),
    ]
    return [
        {"name": name, "label": label, "value": min(round(value, 1), most), "most": most, "said": round(value, 1)}
        for name, label, value, most in asked
        if most > 0
    ]


def canary_panel(request: HttpRequest, found: Target) -> dict[str, Any]:
    """The canary, and what this person may do about it (``canary_line``)."""
    context = canary_context(found)
    if context["canary"] is None:
        return context
    user = user_of(request)
    context["canary"].target = found
    [line] = inbox([context["canary"]], user.username, user.scopes)
    return context | {"canary_line": line}


def deployment_of(found: Target) -> Deployment | None:
    """What is wanted of a target; read once for each time that the target was."""
    return getattr(found, "deployment", None)


@allow("read")
def connection(request: HttpRequest, slug: str) -> HttpResponse:
    found = get_object_or_404(Target, slug=slug)
    return render(request, "console/_connection.html", connection_context(found))


@allow("read")
def standing(request: HttpRequest, slug: str) -> HttpResponse:
    """The notice about replicas that are down, on every page of the target."""
    found = get_object_or_404(Target, slug=slug)
    return render(request, "console/_standing_part.html", {"target": found})


@allow("read")
def launch_part(request: HttpRequest, slug: str) -> HttpResponse:
    found = get_object_or_404(Target, slug=slug, source=Source.SGLANG)
    return render(request, "console/_launch.html", launch_context(request, found))


def replicas(request: HttpRequest, slug: str) -> HttpResponse:
    found = get_object_or_404(Target, slug=slug)
    return render(request, "console/_replicas.html", connection_context(found))


def canary(request: HttpRequest, slug: str) -> HttpResponse:
    found = get_object_or_404(Target, slug=slug)
    return render(request, "console/_canary.html", canary_panel(request, found))


def alerts(request: HttpRequest, slug: str) -> HttpResponse:
    found = get_object_or_404(Target, slug=slug)
    return render(request, "console/_alerts.html", alerts_context(found))


@allow("operate", "POST")
def replica_token(request: HttpRequest, slug: str) -> HttpResponse:
    """A token for the target's servers; the next page shows it, once."""
    found = get_object_or_404(Target, slug=slug)
    _, secret = create_token(f"replicas of {found.slug}", "replica", user_of(request).username)
    request.session[NEW_TOKEN] = {"slug": found.slug, "text": f"export {TOKEN}={secret}"}
    messages.success(request, "The token is below, and only now. Export it in the shell that starts the server.")
    return back_to(request, "console:target", slug)


def pop_token(request: HttpRequest, found: Target) -> str:
    """The line with the token that was just made for this target; "" when there is none."""
    token = request.session.get(NEW_TOKEN)
    if not token or token["slug"] != found.slug:
        return ""
    del request.session[NEW_TOKEN]
    return str(token["text"])
