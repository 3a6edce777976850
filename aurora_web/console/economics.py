"""The page about what speculation saves and learning costs."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from aurora_web.accounts.access import allow, need, user_of
from aurora_web.console.ranges import named
from aurora_web.console.spreadsheet import csv_response
from aurora_web.registry.models import Target
from aurora_web.rollouts.economics import COSTS, DEFAULT_RANGE, RANGES, CostError, set_costs
from aurora_web.rollouts.economics import economics as figures_of
from aurora_web.rollouts.savings import Saving


@allow("read", "GET", "HEAD", "POST")
def economics(request: HttpRequest, slug: str) -> HttpResponse:
    """The range is in the address; POST changes the assumptions (operators)."""
    found = get_object_or_404(Target, slug=slug)
    problem: CostError | None = None
    if request.method == "POST":
        need(request, "operate")
        given = {name: request.POST[name] for name in COSTS if name in request.POST}
        try:
            set_costs(found, given, user_of(request).username, request.POST.get("reason", "")[:500])
        except CostError as error:
            problem = error
        else:
            messages.success(request, "The assumptions are saved.")
            return redirect(request.get_full_path())
    chosen, unknown = _range(request)
    context = {
        "target": found,
        "area": "economics",
        "ranges": RANGES,
        "range": chosen,
        "range_problem": unknown,
        "found": figures_of(found, chosen),
        "problem": problem,
        "given": request.POST,
    }
    return render(request, "console/economics.html", context, status=422 if problem else 200)


def _range(request: HttpRequest) -> tuple[str, str]:
    return named(request.GET.get("range", ""), RANGES, DEFAULT_RANGE)


@allow("read")
def economics_csv(request: HttpRequest, slug: str) -> HttpResponse:
    """The figures per domain, the last line of all."""
    target = get_object_or_404(Target, slug=slug)
    chosen, _ = _range(request)
    found = figures_of(target, chosen)
    header = (
        "domain", "num_requests", "num_tokens", "covered_share", "spent_seconds", "without_seconds", "saved_seconds",
        "saved_low", "saved_high", "reason",
    )  # fmt: skip
    rows = [_row(line, line.domain) for line in found.domains] + [_row(found.total, "(all)")]
    return csv_response(f"{target.slug}-economics-{chosen}.csv", header, rows)


def _row(line: Saving, name: str) -> list[object]:
    saved = line.saved
    known = [line.spent_seconds, line.without_seconds] if line.without_seconds is not None else [None, None]
    return [
        name,
        line.num_requests,
        line.num_tokens,
        line.covered,
        *known,
        saved.value,
        saved.low,
        saved.high,
        saved.reason,
    ]
