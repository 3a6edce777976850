"""The pages of one target: live, version, settings; and the parts of them that are fetched again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

from django.conf import settings as django_settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from aurora_web.accounts.access import allow, need, user_of
from aurora_web.console import charts, phases
from aurora_web.console.fleet import (
    alerts_context,
    canary_panel,
    connection_context,
    deployment_of,
    launch_context,
    pop_token,
)
from aurora_web.console.forms import PolicyForm, TrafficForm
from aurora_web.console.ranges import RANGES, TimeRange, time_range
from aurora_web.console.shared import SHARED_PARTS
from aurora_web.console.timeline import MAX_MARKERS, timeline
from aurora_web.metrics import services as metrics
from aurora_web.moments import in_utc
from aurora_web.registry.models import SpeculatorVersion, Status, Target
from aurora_web.registry.services import IncompatibleTarget, change_settings, find_version
from aurora_web.rollouts.approvals import inbox
from aurora_web.rollouts.predicted import longer_by_a_draft
from aurora_web.training.models import TrainingRun
from speculators.records import NO_DRAFT

NUM_VERSIONS = 15
NUM_EVENTS = 50
LIVE_SECONDS = 300.0  # the large figures: the live version over so long
# Large, and in no row of the table of versions.
UNSEEN = ("config", "parent__config", "parent__provenance", "parent__report", "gate_decision__domains",
          "gate_decision__policy")  # fmt: skip
# What several parts of the page ask for is read with the target, in one question.
WITH_IT = ("deployment__desired", "deployment__canary", "freeze", "training_pause")
UNREAD = ("deployment__desired__config", "deployment__desired__provenance", "deployment__desired__report",
          "deployment__canary__config", "deployment__canary__provenance")  # fmt: skip
KEPT = ("domain", "view", "live")  # what stays in the address when the range changes


@allow("read")
def target(request: HttpRequest, slug: str) -> HttpResponse:
    """Phases, figures, charts, domains, replicas, versions and events of one target over one range."""
    with_parts = Target.objects.select_related(*WITH_IT).defer(*UNREAD).prefetch_related("replicas")
    found = get_object_or_404(with_parts, slug=slug)
    chosen = time_range(request.GET)
    live = find_version(found, "@live")
    is_table = request.GET.get("view") == "table"
    points, bucket = charts.points_of(found, chosen.since, chosen.until) if is_table else ([], 0)
    figures_shown = _figures(found, chosen, live)
    context = {
        **_address(request, chosen),
        **figures_shown,
        "is_domain_known": any(row["domain"] == _domain(request) for row in figures_shown["summary"]["domains"]),
        **_switches(found),
        "rows": charts.table(found, chosen.since, chosen.until, points, bucket, _domain(request)) if is_table else [],
        **_versions(request, found, live),
        **_events(found, chosen, points, bucket),
        **alerts_context(found),
        **connection_context(found, deployment_of(found)),
        **canary_panel(request, found),
        **(launch_context(request, found) if found.is_on_sglang else {}),
        "new_token": pop_token(request, found),
        "shared_parts": " ".join(sorted(SHARED_PARTS)),
        "max_marks": MAX_MARKERS,
    }
    return render(request, "console/target.html", context)


def _address(request: HttpRequest, chosen: TimeRange) -> dict[str, Any]:
    """The address taken apart, so that a link changes one thing and keeps the others."""
    given = {name: request.GET[name] for name in KEPT if request.GET.get(name)}
    typed = in_utc(request.GET, ("from", "to"))

    def without(name: str) -> str:
        kept = urlencode({key: value for key, value in given.items() if key != name})
        return f"&{kept}" if kept else ""

    return {
        "ranges": RANGES,
        "range": chosen,
        "domain": _domain(request),
        "is_live": chosen.is_open and request.GET.get("live") != "0",
        "is_table": request.GET.get("view") == "table",
        "hidden": list(given.items()),
        "range_fields": parse_qsl(chosen.query),
        "kept": without(""),
        "kept_without_live": without("live"),
        "kept_without_view": without("view"),
        "kept_without_domain": without("domain"),
        "custom_from": typed.get("from", ""),
        "custom_to": typed.get("to", ""),
    }


def figures(request: HttpRequest, slug: str) -> HttpResponse:
    found = get_object_or_404(Target, slug=slug)
    chosen, live = time_range(request.GET), find_version(found, "@live")
    return render(request, "console/_figures.html", _figures(found, chosen, live))


def tables(request: HttpRequest, slug: str) -> HttpResponse:
    found = get_object_or_404(Target, slug=slug)
    chosen = time_range(request.GET)
    return render(request, "console/_tables.html", {"target": found, **_sums(found, chosen)})


def charts_table(request: HttpRequest, slug: str) -> HttpResponse:
    """The charts as a table."""
    found = get_object_or_404(Target, slug=slug)
    chosen = time_range(request.GET)
    points, bucket = charts.points_of(found, chosen.since, chosen.until)
    rows = charts.table(found, chosen.since, chosen.until, points, bucket, _domain(request))
    return render(request, "console/_charts_table.html", {"rows": rows})


def _domain(request: HttpRequest) -> str:
    return request.GET.get("domain", "")


def versions(request: HttpRequest, slug: str) -> HttpResponse:
    found = get_object_or_404(Target, slug=slug)
    shown = _versions(request, found, find_version(found, "@live"))
    return render(request, "console/_versions.html", {"target": found, **shown})


def events(request: HttpRequest, slug: str) -> HttpResponse:
    found = get_object_or_404(Target, slug=slug)
    return render(request, "console/_events.html", {"target": found, **_events(found, time_range(request.GET))})


def actions(request: HttpRequest, slug: str) -> HttpResponse:
    """What an operator may do beside the time range."""
    found = get_object_or_404(Target, slug=slug)
    shown = {"target": found, "previous": find_version(found, "@previous")}
    return render(request, "console/_actions.html", shown)


def switches(request: HttpRequest, slug: str) -> HttpResponse:
    """Whether it trains and whether versions go live by themselves, and the buttons that change it."""
    found = get_object_or_404(Target, slug=slug)
    return render(request, "console/_switches.html", _switches(found))


def _switches(found: Target) -> dict[str, Any]:
    return {
        "target": found,
        "pause": getattr(found, "training_pause", None),
        "freeze": getattr(found, "freeze", None),
        "deployment": deployment_of(found),
        "num_wanted": django_settings.MIN_FRESH_TRACES,
    }


def _sums(found: Target, chosen: TimeRange) -> dict[str, Any]:
    until = None if chosen.is_open else chosen.until
    sums = metrics.summary(found, since=chosen.since, until=until, with_batch_sizes=False)
    return {"summary": sums, "range_words": chosen.words}


def _figures(found: Target, chosen: TimeRange, live: SpeculatorVersion | None) -> dict[str, Any]:
    """Large: the live version over the last minutes, so that day 0 does not dilute it. Small: the whole range."""
    run = TrainingRun.objects.filter(target=found, is_active=True).first()
    last = run.slices.first() if run else None
    replicas = list(found.replicas.all())
    since = timezone.now().timestamp() - LIVE_SECONDS
    recent = metrics.total_of(found, live.number if live else NO_DRAFT, since)
    missing = "" if recent["counts"]["num_requests"] else "no request has finished in this time"
    return {
        "target": found,
        **_sums(found, chosen),
        "recent": recent,
        "recent_reason": missing if live else "no version is live",
        "longer_by_a_draft": longer_by_a_draft(replicas),
        "live_minutes": round(LIVE_SECONDS / 60),
        "live": live,
        "run": run,
        "last_slice": last,
        "steps": phases.steps(phases.facts_of(found, live, run, last)),
        "is_day_zero": live is None or live.is_random,
        "is_stale": bool(replicas) and not any(replica.is_alive for replica in replicas),
    }


def _versions(request: HttpRequest, found: Target, live: SpeculatorVersion | None) -> dict[str, Any]:
    rows = found.versions.select_related("parent", "gate_decision").defer(*UNSEEN).order_by("-number")
    shown = list(rows[:NUM_VERSIONS])
    user = user_of(request)
    waiting = inbox([each for each in shown if each.status == Status.PASSED], user.username, user.scopes)
    lines = {line.version.pk: line for line in waiting}
    return {
        "versions": [(each, lines.get(each.pk)) for each in shown],
        "num_versions": found.versions.count(),
        "previous": find_version(found, "@previous"),
        "live": live,
    }


def _events(
    found: Target, chosen: TimeRange, points: list[dict[str, Any]] | None = None, bucket: int = 0
) -> dict[str, Any]:
    """``points`` and their ``bucket`` where the charts' points were read: see timeline."""
    told = timeline(found, chosen.since, chosen.until, points or [], bucket, limit=NUM_EVENTS + 1)
    shown = [event | {"when": datetime.fromtimestamp(event["at"], UTC)} for event in told[:NUM_EVENTS]]
    return {"events": shown, "has_more": len(told) > NUM_EVENTS, "range_query": chosen.query}


@allow("read", "GET", "HEAD", "POST")
def settings(request: HttpRequest, slug: str) -> HttpResponse:
    """Traffic (operators) and policy (admins) of a target; viewers may look."""
    found = get_object_or_404(Target, slug=slug)
    which = request.POST.get("form", "")
    traffic = TrafficForm(request.POST if which == "traffic" else None, instance=found)
    policy = PolicyForm(request.POST if which == "policy" else None, instance=found)
    if request.method == "POST":
        need(request, "administer" if which == "policy" else "operate")
        form = policy if which == "policy" else traffic
        if form.is_valid():
            changes = dict(form.cleaned_data)
            reason = changes.pop("reason", "")
            try:
                change_settings(Target.objects.get(pk=found.pk), changes, user_of(request).username, reason)
            except IncompatibleTarget as error:
                form.add_error(None, error.problems)
            else:
                messages.success(request, "Saved.")
                return redirect("console:settings", slug=slug)
    context = {"target": found, "traffic": traffic, "policy": policy}
    return render(request, "console/settings.html", context, status=422 if traffic.errors or policy.errors else 200)
