"""The page about a target's domains: heatmap, trend, drift, worst slices, pins, and rules for their names."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone

from aurora_web.accounts.access import allow, need, user_of
from aurora_web.console import pins
from aurora_web.console.back import back_to
from aurora_web.console.forms import PinForm
from aurora_web.console.ranges import named
from aurora_web.console.templatetags.figures import percent
from aurora_web.metrics import domains as figures
from aurora_web.metrics import slices
from aurora_web.metrics.domains import Cell, Drift
from aurora_web.metrics.domains_api import domain_figures
from aurora_web.registry.models import Target
from aurora_web.traces import domains as rules
from aurora_web.traces.models import DomainRule, RuleKind
from aurora_web.traces.pins import losing

MAX_SLICES = 20
MAX_DRIFT = 30
MAX_TREND = 500  # lines of the trend as a table; the file has all
NUM_ENDED = 20
HEAT_STEPS = 6


@allow("read", "GET", "HEAD", "POST")
def domains(request: HttpRequest, slug: str) -> HttpResponse:
    """The range, and the domain whose pin the form shows, are in the address; POST pins or adds a rule (operators)."""
    found = get_object_or_404(Target, slug=slug)
    problem: rules.RuleError | None = None
    form: PinForm | None = None
    if request.method == "POST":
        need(request, "operate")
    if request.POST.get("form") == "pin":
        form = pins.save(request, found)
        if form is None:
            return back_to(request, "console:domains", slug, part="pins")
    elif request.method == "POST":
        before = rules.active_rules(found)
        try:
            added = _add(request, found)
        except rules.RuleError as error:
            problem = error
        else:
            names = ", ".join(rule.pattern for rule in added)
            messages.success(
                request, f"What arrives from now on as {names} is kept as {added[0].domain}.{_ended(before)}"
            )
            _warn_of_pins(request, found, before)
            return back_to(request, "console:domains", slug, part="rules")
    context = _context(found, request.GET.get("range", "")) | {"problem": problem, "given": request.POST}
    context["is_table"] = request.GET.get("view") == "table"
    context |= {"pin_form": form or pins.empty_form(found, request.GET.get("pin", "").replace("\0", "")[:100])}
    return render(request, "console/domains.html", context, status=422 if problem or form else 200)


def _add(request: HttpRequest, target: Target) -> list[DomainRule]:
    kind, pattern = request.POST.get("kind", ""), request.POST.get("pattern", "").strip()
    several = [part.strip() for part in pattern.split(",")] if kind == RuleKind.EXACT else [pattern]
    domain, reason = request.POST.get("domain", "").strip(), request.POST.get("reason", "")[:500]
    return rules.add_rules(target, kind, [p for p in several if p], domain, user_of(request).username, reason)


def _ended(before: list[DomainRule]) -> str:
    """Which of these rules have been replaced since, as a sentence after another."""
    gone = DomainRule.objects.filter(pk__in=[rule.pk for rule in before]).exclude(ended_at=None)
    words = ", ".join(str(rule) for rule in gone)
    return f" In its place ends: {words}." if words else ""


def _warn_of_pins(request: HttpRequest, target: Target, before: list[DomainRule]) -> None:
    """A rule may take requests away from a pin, which says no word about it where the rule is made."""
    for words in losing(target, before):
        messages.warning(request, f"Pinned {words}. Look at the pins.")


def _context(found: Target, asked: str) -> dict[str, Any]:
    name, unknown = named(asked, figures.RANGES, figures.DEFAULT_RANGE)
    seen = domain_figures(found, name)
    since = timezone.now() - timedelta(seconds=figures.RANGES[name][0])
    worst, num_sampled = slices.worst_slices(found, since)
    values = [cell.value for line in seen["domains"] for cell in line.cells if cell.value is not None]
    pinned = pins.part(found)
    change_of = {each.change.domain: each.change for each in pinned["board"].pins}
    ended = DomainRule.objects.filter(target=found).exclude(ended_at=None).order_by("-ended_at")
    return pinned | {
        "area": "domains",
        "ranges": figures.RANGES,
        "range": name,
        "range_problem": unknown,
        "trace_range": _in_address(seen["since"], seen["until"]),
        "window_minutes": seen["window_seconds"] // 60,
        "versions": seen["versions"],
        "lines": [
            (line, [_heat(cell, values) for cell in line.cells], change_of.get(line.domain)) for line in seen["domains"]
        ],
        "trend": [(datetime.fromtimestamp(point["at"], UTC), point) for point in reversed(seen["trend"][-MAX_TREND:])],
        "num_trend": len(seen["trend"]),
        "drift": [_said(drift, seen["window_seconds"]) for drift in seen["drift"][:MAX_DRIFT]],
        "num_drift": len(seen["drift"]),
        "policy": figures,
        "slices": worst[:MAX_SLICES],
        "num_slices": len(worst),
        "num_sampled": num_sampled,
        "sample": slices.SAMPLE,
        "least": slices,
        "rules": rules.active_rules(found),
        "ended_rules": list(ended[:NUM_ENDED]),
        "kinds": RuleKind.choices,
    }


def _in_address(since: float, until: float) -> str:
    """The time, in whole seconds of UTC, as the search for traces takes it."""
    ends = {"since": math.floor(since), "until": math.ceil(until)}
    return urlencode({name: f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S}" for name, at in ends.items()})


def _heat(cell: Cell, values: list[float]) -> tuple[Cell, str]:
    """A cell and the class of its colour: steps between the lowest and the highest value on the page."""
    if cell.value is None:
        return cell, "heat-none"
    low, high = min(values), max(values)
    step = round((cell.value - low) / (high - low) * (HEAT_STEPS - 1)) if high > low else HEAT_STEPS // 2
    return cell, f"heat-{step}"


def _said(drift: Drift, width: int) -> dict[str, Any]:
    """An event in a sentence with its numbers."""
    at = datetime.fromtimestamp(drift.at, UTC)
    errors = f"{drift.errors:.1f} standard errors" if drift.errors < 1000 else "far beyond its interval"
    if drift.what == "share":
        said = f"its share of the requests went from {percent(drift.before)} to {percent(drift.after)} ({errors})"
    else:
        said = f"accept length under v{drift.version} went from {drift.before:.2f} to {drift.after:.2f} ({errors})"
    return {"at": at, "until": at + timedelta(seconds=width), "domain": drift.domain, "said": said}


@allow("operate", "POST")
def end_rule(request: HttpRequest, slug: str, rule_id: int) -> HttpResponse:
    """A rule holds no more."""
    rule = get_object_or_404(DomainRule.objects.select_related("target"), target__slug=slug, pk=rule_id)
    before = rules.active_rules(rule.target)
    try:
        rules.end_rule(rule, user_of(request).username, request.POST.get("reason", "")[:500])
    except rules.RuleEnded as error:
        messages.error(request, f"Nothing was changed: {error}.")
    else:
        messages.success(request, "The rule holds no more for what arrives from now on.")
        _warn_of_pins(request, rule.target, before)
    return back_to(request, "console:domains", slug, part="rules")
