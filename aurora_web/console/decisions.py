"""What a person decides: approve, reject, roll back, resume, and demo traffic on or off."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from aurora_web.accounts.access import allow, user_of
from aurora_web.console.back import back_to
from aurora_web.console.forms import DecisionForm
from aurora_web.registry.models import ApprovalPolicy, SpeculatorVersion, Status, Target
from aurora_web.registry.services import StaleVersion, change_settings, find_version, previous_versions
from aurora_web.rollouts import canaries, services
from aurora_web.rollouts.alerts import open_alerts
from aurora_web.rollouts.approvals import ApprovalRefused, StaleJudgement
from aurora_web.rollouts.intent import RolloutError
from aurora_web.rollouts.models import Alert, AlertState

MOST_CHOICES = 100  # versions that a rollback offers; older ones have a link on their pages


def _decide(
    request: HttpRequest, slug: str, act: Callable[[], object], done: str, pk: int | None = None
) -> HttpResponse:
    """Carry a decision out, say what came of it, and go back to where it was made (``back``), or to the target."""
    try:
        act()
    except StaleJudgement as error:
        messages.error(request, f"Nothing was changed: {error}.")
        return redirect("console:approval", version_id=pk)
    except ApprovalRefused as error:
        raise PermissionDenied(str(error)) from error
    except (StaleVersion, RolloutError) as error:
        messages.error(request, f"Nothing was changed: {error}.")
    else:
        messages.success(request, done)
    back = request.POST.get("back", "")
    if back == "inbox":
        return back_to(request, "console:approvals")
    if back == "approval" and pk is not None:
        return redirect("console:approval", version_id=pk)
    return back_to(request, "console:target", slug)


def _given(request: HttpRequest) -> tuple[str, str | None]:
    """(reason, the status that the person saw)."""
    form = DecisionForm(request.POST)
    if not form.is_valid():
        return request.POST.get("reason", "")[:500], None
    return form.cleaned_data["reason"], form.cleaned_data["expected_status"] or None


def _version(slug: str, number: int) -> SpeculatorVersion:
    return get_object_or_404(SpeculatorVersion.objects.select_related("target"), target__slug=slug, number=number)


@allow("operate", "POST")
def approve(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    version, actor, (reason, expected) = _version(slug, number), user_of(request).username, _given(request)
    planned = canaries.plan(version.target)
    done = f"v{number} goes live: replicas switch between two steps. {planned.reason}".strip()
    if planned.replicas:
        names = ", ".join(replica.name for replica in planned.replicas)
        done = f"v{number} goes into canary on {names}; the others keep the live version."
    scopes = user_of(request).scopes
    return _decide(request, slug, lambda: services.approve(version, actor, reason, expected, scopes), done, version.pk)


@allow("operate", "POST")
def reject(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    version, actor, (reason, expected) = _version(slug, number), user_of(request).username, _given(request)
    done = f"v{number} is rejected."
    return _decide(request, slug, lambda: services.reject(version, actor, reason, expected), done, version.pk)


@allow("operate", "POST")
def promote_canary(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    version, actor, (reason, expected) = _version(slug, number), user_of(request).username, _given(request)
    done = f"v{number} goes live on every replica."
    scopes = user_of(request).scopes
    return _decide(request, slug, lambda: canaries.promote(version, actor, reason, expected, scopes), done, version.pk)


@allow("operate", "POST")
def abort_canary(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    version, actor, (reason, expected) = _version(slug, number), user_of(request).username, _given(request)
    done = f"The canary is ended: its replicas go back to the live version, v{number} is rolled back."
    return _decide(request, slug, lambda: canaries.abort(version, actor, reason, expected), done, version.pk)


def _way_back(target: Target, to: str = "@previous") -> dict[str, Any]:
    """What a rollback would do: to the version that is asked for, else to the previous one; and what else there is."""
    previous, asked = find_version(target, "@previous"), find_version(target, to)
    earlier = previous if asked is None or services.cannot_come_back(asked) else asked
    choices = list(services.can_be_brought_back(target)[:MOST_CHOICES])
    alive = target.replicas.filter(is_alive=True)
    return {
        "target": target,
        "live": find_version(target, "@live"),
        "earlier": earlier,
        "instead": previous if previous != earlier else None,
        "left": earlier.transitions.first() if earlier and earlier.status == Status.ROLLED_BACK else None,
        "choices": choices,
        "other_choices": [choice for choice in choices if choice != earlier],
        "canary": target.versions.filter(status=Status.CANARY).first(),
        "num_alive": alive.count(),
        "num_canary": alive.filter(is_canary=True).count(),
    }


def _ways_back() -> list[dict[str, Any]]:
    """That of every active target which can go back, by a few questions however many there are."""
    in_service = SpeculatorVersion.objects.filter(status__in=[Status.LIVE, Status.CANARY], target__is_active=True)
    live, canary = ({v.target_id: v for v in in_service if v.status == status} for status in ("live", "canary"))
    previous = previous_versions(live)
    alerts: dict[int, list[Alert]] = defaultdict(list)
    for alert in open_alerts().filter(target__in=previous, state=AlertState.FIRING).select_related("target"):
        alerts[alert.target_id or 0].append(alert)
    num_alive = Count("replicas", filter=Q(replicas__is_alive=True))
    num_canary = Count("replicas", filter=Q(replicas__is_alive=True, replicas__is_canary=True))
    targets = Target.objects.filter(pk__in=previous).annotate(num_alive=num_alive, num_canary=num_canary)
    return [
        {
            "target": target,
            "live": live[target.pk],
            "earlier": previous[target.pk],
            "canary": canary.get(target.pk),
            "num_alive": target.num_alive,
            "num_canary": target.num_canary,
            "alerts": alerts[target.pk],
        }
        for target in targets.order_by("slug")
    ]


@allow("operate")
def rollbacks(request: HttpRequest) -> HttpResponse:
    """Every target that can go back, from any page in one click; those with alerts first."""
    ways = sorted(_ways_back(), key=lambda way: not way["alerts"])
    return render(request, "console/rollbacks.html", {"ways": ways})


@allow("operate", "GET", "HEAD", "POST")
def rollback(request: HttpRequest, slug: str) -> HttpResponse:
    """GET says what will happen (``to=N``: with which version); POST does it, or asks again where that has changed.

    A version that cannot come back is answered with why, a choice of others, and no button.
    """
    target = get_object_or_404(Target, slug=slug)
    if request.method != "POST":
        to = request.GET.get("to", "").strip().removeprefix("v") or "@previous"
        wrong = _why_not(target, to)
        context = _way_back(target, to) | {"wrong": wrong}
        return render(request, "console/rollback.html", context, status=422 if wrong else 200)
    actor, (reason, _), to = user_of(request).username, _given(request), request.POST.get("to", "@previous")
    seen = _number(request, "expected_live"), _number(request, "expected_canary")
    try:
        deployment = services.rollback(target, actor, reason, to, *seen)
    except (StaleVersion, RolloutError) as error:
        return _ask_again(request, target, to, reason, str(error))
    until = "" if target.approval == ApprovalPolicy.MANUAL else " or lets the policy decide again"
    messages.success(request, f"Rolled back. Nothing goes live by itself until somebody approves a version{until}.")
    return redirect("console:swap", slug=slug, generation=deployment.generation)


def _why_not(target: Target, to: str) -> str:
    """Why the version that is asked for cannot come back; "" = it can, or none is asked for."""
    if to == "@previous":
        return ""
    asked = find_version(target, to)
    if asked is None:
        return f"{target.slug} has no version {to:.40}"
    why = services.cannot_come_back(asked)
    return f"v{asked.number} cannot come back: {why}" if why else ""


def _number(request: HttpRequest, name: str) -> int | None:
    """A number of a version that the form holds; None where it does not."""
    given = request.POST.get(name, "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 10 else None


def _ask_again(request: HttpRequest, target: Target, to: str, reason: str, problem: str) -> HttpResponse:
    """The confirmation with what is so by now; where somebody else has brought that version back, nothing is to do."""
    way = _way_back(target, to)
    if way["live"] is not None and to == str(way["live"].number):
        messages.error(request, f"Nothing was changed: {problem}.")
        return back_to(request, "console:target", target.slug)
    return render(request, "console/rollback.html", way | {"problem": problem, "reason": reason}, status=409)


@allow("operate", "POST")
def resume(request: HttpRequest, slug: str) -> HttpResponse:
    target = get_object_or_404(Target, slug=slug)
    actor = user_of(request).username
    return _decide(request, slug, lambda: services.resume(target, actor), "The policy decides again.")


@allow("operate", "POST")
def traffic(request: HttpRequest, slug: str) -> HttpResponse:
    """Demo traffic on or off."""
    target = get_object_or_404(Target, slug=slug)
    is_on = request.POST.get("enabled") == "1"
    change_settings(target, {"traffic_enabled": is_on}, user_of(request).username)
    messages.success(request, f"Demo traffic is {'on' if is_on else 'off'}; it follows within a few seconds.")
    return back_to(request, "console:target", slug)
