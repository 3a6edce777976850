"""The inbox of what waits for a person, the page of one decision, and how long a swap takes."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from aurora_web.accounts.access import allow, user_of
from aurora_web.console.fleet import canary_context
from aurora_web.registry.models import SpeculatorVersion, Status, Target
from aurora_web.registry.services import find_version
from aurora_web.rollouts import canaries, services
from aurora_web.rollouts.approvals import inbox, search, waiting_versions
from aurora_web.rollouts.gate import MIN_TRACES_PER_DOMAIN
from aurora_web.rollouts.gate_table import gate_rows
from aurora_web.rollouts.intent import RolloutError
from aurora_web.rollouts.models import Deployment
from aurora_web.rollouts.swaps import find_swap, progress, recent_swaps

LINES_PER_PAGE = 50
STATES = {"all": "All", "waiting": "Waiting for approval", "canary": "In canary"}
NUM_SWAPS = 5


@allow("read")
def approvals(request: HttpRequest) -> HttpResponse:
    """What waits over all targets, longest first; the filters are in the address."""
    user = user_of(request)
    state = request.GET.get("state", "all")
    chosen = {"target": request.GET.get("target", "").strip(), "state": state if state in STATES else "all"}
    found = search(waiting_versions(), chosen["target"].replace("\0", ""), chosen["state"])
    page = Paginator(found, LINES_PER_PAGE).get_page(request.GET.get("page"))
    query = request.GET.copy()
    query.pop("page", None)
    context = {
        "page": page,
        "lines": inbox(page, user.username, user.scopes),
        "chosen": chosen,
        "is_filtered": bool(chosen["target"]) or chosen["state"] != "all",
        "states": STATES,
        "targets": list(Target.objects.values_list("slug", flat=True)),
        "query": query.urlencode(),
    }
    return render(request, "console/approvals.html", context)


@allow("read")
def approval(request: HttpRequest, version_id: int) -> HttpResponse:
    """Everything about one decision: report, reasons, canary, what may be done, and how the last swaps went."""
    found = get_object_or_404(
        SpeculatorVersion.objects.select_related("target", "parent", "gate_decision"), pk=version_id
    )
    user, target = user_of(request), found.target
    [line] = inbox([found], user.username, user.scopes)
    waiting = waiting_versions().filter(target=target, status=Status.PASSED)
    others = list(waiting.exclude(pk=found.pk).order_by("-number"))
    context: dict[str, Any] = {
        "target": target,
        "version": found,
        "line": line,
        "decision": line.decision,
        "rows": gate_rows(line.decision),
        "least_traces": MIN_TRACES_PER_DOMAIN,
        "live": find_version(target, "@live"),
        "previous": find_version(target, "@previous"),
        "can_come_back": not services.cannot_come_back(found),
        "planned": canaries.plan(target),
        "num_alive": target.replicas.filter(is_alive=True).count(),
        "words": list(found.approvals.all()[:20]),
        "last": found.transitions.first(),
        "others": others,
        "older": [other for other in others if other.number < found.number],  # rollouts.intent.supersede
        "swaps": recent_swaps(target, NUM_SWAPS, found.number),
        **(canary_context(target) if found.status == Status.CANARY else {}),
    }
    return render(request, "console/approval.html", context)


@allow("operate", "POST")
def judge_again(request: HttpRequest, version_id: int) -> HttpResponse:
    """Put a waiting version before the gate again, against what is live now."""
    found = get_object_or_404(SpeculatorVersion.objects.select_related("target"), pk=version_id)
    reason = request.POST.get("reason", "")[:500]
    try:
        decision = services.judge_again(found, user_of(request).username, reason)
    except RolloutError as error:
        messages.error(request, f"Nothing was changed: {error}.")
    else:
        came = "passed again" if decision.passed else "does not pass any more and is rejected"
        messages.success(request, f"v{found.number} {came}. {' '.join(decision.reasons)}")
    return redirect("console:approval", version_id=version_id)


@allow("read")
def swap(request: HttpRequest, slug: str, generation: int) -> HttpResponse:
    """One change of intent, and the seconds until each replica said that it runs it."""
    target = get_object_or_404(Target, slug=slug)
    found = find_swap(target, generation)
    if found is None:
        raise Http404(f"{slug} has no swap of the generation {generation}")
    deployment = Deployment.objects.filter(target=target).first()
    context = {
        "target": target,
        "found": progress(found),
        "is_current": deployment is not None and deployment.generation == generation,
        "is_held": bool(deployment and deployment.is_held),
        "others": recent_swaps(target, 20),
    }
    return render(request, "console/swap.html", context)
