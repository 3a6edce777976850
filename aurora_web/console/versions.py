"""The versions of a target: all of them with their lineage, one in detail, several side by side, and their files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone

from aurora_web.accounts.access import allow, user_of
from aurora_web.accounts.services import record
from aurora_web.metrics.by_version import curve, served_between, served_by_domain
from aurora_web.registry.in_service import periods
from aurora_web.registry.lineage import lineage
from aurora_web.registry.models import SpeculatorVersion, Status, Target, Transition
from aurora_web.registry.provenance import provenance
from aurora_web.registry.services import find_version
from aurora_web.registry.version_files import find_file, list_files, stream
from aurora_web.registry.version_search import LONGEST_TEXT, SORTS, search
from aurora_web.rollouts.approvals import requester
from aurora_web.rollouts.comparison import LEAST, MOST, Comparison, ComparisonError, choose, compare
from aurora_web.rollouts.gate import MIN_TRACES_PER_DOMAIN
from aurora_web.rollouts.gate_table import gate_rows
from aurora_web.rollouts.models import GateDecision
from aurora_web.rollouts.services import cannot_come_back
from aurora_web.rollouts.swaps import recent_swaps
from aurora_web.traces.positions import SAMPLE, Positions
from aurora_web.training.learnt import learnt_from

VERSIONS_PER_PAGE = 25
SINCE = {"1h": 1, "24h": 24, "7d": 168, "30d": 720}  # hours
ALIASES = ("@live", "@previous", "@candidate")
NUM_SWAPS = 20
NUM_PERIODS = 30


def _chosen(request: HttpRequest) -> dict[str, str]:
    """The filters of the address; anything odd counts as not given."""
    given = {name: request.GET.get(name, "").strip() for name in ("status", "since", "q", "sort")}
    return {
        "status": given["status"] if given["status"] in Status.values else "",
        "since": given["since"] if given["since"] in SINCE else "",
        "q": given["q"].replace("\0", "")[:LONGEST_TEXT],
        "sort": given["sort"] if given["sort"] in SORTS else "newest",
    }


def _matching(target: Target, chosen: dict[str, str]) -> QuerySet[SpeculatorVersion]:
    hours = SINCE.get(chosen["since"])
    since = timezone.now() - timedelta(hours=hours) if hours else None
    found = search(target, status=chosen["status"], created_since=since, text=chosen["q"])
    return found.select_related("parent", "gate_decision").order_by(*SORTS[chosen["sort"]][1])


@allow("read")
def versions(request: HttpRequest, slug: str) -> HttpResponse:
    """All versions of a target, a page at a time; filters and order are in the address."""
    target = get_object_or_404(Target, slug=slug)
    chosen = _chosen(request)
    page = Paginator(_matching(target, chosen), VERSIONS_PER_PAGE).get_page(request.GET.get("page"))
    shown = list(page)
    query = request.GET.copy()
    query.pop("page", None)
    context = {
        "target": target,
        "page": page,
        "rows": _rows(target, shown),
        "lineage": lineage(shown),
        "aliases": [(alias, find_version(target, alias)) for alias in ALIASES],
        "chosen": chosen,
        "is_filtered": bool(chosen["status"] or chosen["since"] or chosen["q"]),
        "statuses": Status.values,
        "sinces": SINCE,
        "sorts": {name: label for name, (label, _) in SORTS.items()},
        "query": query.urlencode(),
        "least": LEAST,
        "most": MOST,
    }
    return render(request, "console/versions.html", context)


def _rows(target: Target, shown: list[SpeculatorVersion]) -> list[dict[str, Any]]:
    """Versions with the accept length that each has measured in service."""
    served = served_by_domain(target, [version.number for version in shown]) if shown else []
    tokens: dict[int, float] = {}
    steps: dict[int, float] = {}
    for row in served:
        tokens[row.version] = tokens.get(row.version, 0.0) + row.accept.sum_x
        steps[row.version] = steps.get(row.version, 0.0) + row.accept.sum_y
    rejected = _rejections(shown)
    return [
        {
            "version": v,
            "measured": tokens[v.number] / steps[v.number] if steps.get(v.number) else None,
            "rejected": rejected.get(v.pk, ""),
        }
        for v in shown
    ]


def _rejections(shown: list[SpeculatorVersion]) -> dict[int, str]:
    """Why versions that had passed the gate were rejected afterwards, by primary key."""
    rows = Transition.objects.filter(version__in=shown, old=Status.PASSED, new=Status.REJECTED).order_by("pk")
    return dict(rows.values_list("version_id", "reason"))


@allow("read")
def compare_page(request: HttpRequest, slug: str) -> HttpResponse:
    """Two to four versions side by side; which ones is in the address (v=3&v=7)."""
    target = get_object_or_404(Target, slug=slug)
    numbers = request.GET.getlist("v")
    context: dict[str, Any] = {"target": target, "numbers": numbers, "least": LEAST, "most": MOST}
    try:
        chosen = choose(target, numbers)
    except ComparisonError as error:
        context |= {"problem": str(error) if numbers else "", "recent": _recent(target)}
        return render(request, "console/compare.html", context, status=422 if numbers else 200)
    found = compare(target, chosen)
    is_table = request.GET.get("view") == "table"
    context |= {"comparison": found, "heat": _heat(found), "sample": SAMPLE, "is_table": is_table}
    context["address"] = "&".join(f"v={version.number}" for version in chosen)
    context["is_by_clock"] = request.GET.get("align") == "clock"
    context["points"] = _points(target, chosen) if is_table else []
    return render(request, "console/compare.html", context)


def _points(target: Target, chosen: list[SpeculatorVersion]) -> list[dict[str, Any]]:
    """The curves of the chart as lines of a table, one version after another, oldest first."""
    return [
        {
            "number": version.number,
            "at": datetime.fromtimestamp(point["at"], UTC),
            "seconds": point["at"] - points[0]["at"],
            "accept_length": point["tokens"] / point["steps"],
            "steps": point["steps"],
            "requests": point["requests"],
        }
        for version in chosen
        for points in [curve(target, version.number)]
        for point in points
    ]


def _recent(target: Target) -> list[int]:
    return list(target.versions.order_by("-number").values_list("number", flat=True)[:12])


def _heat(found: Comparison) -> dict[str, Any]:
    """The heatmap's columns, and a row for each version and source; a missing cell is None."""
    counted = [
        (version, source, positions)
        for i, version in enumerate(found.versions)
        for source, positions in (
            ("served traces", found.positions[i]),
            ("replayed traces", found.replay_positions[i]),
        )
    ]
    width = max(len(positions.rates) for _, _, positions in counted)
    rows = [
        {"version": version, "source": source, "num_traces": positions.num_traces, "cells": _cells(positions, width)}
        for version, source, positions in counted
    ]
    return {"places": range(1, width + 1), "rows": rows}


def _cells(positions: Positions, width: int) -> list[dict[str, Any] | None]:
    cells: list[dict[str, Any] | None] = [{"rate": rate, "level": min(9, int(rate * 10))} for rate in positions.rates]
    return cells + [None] * (width - len(cells))


@allow("read")
def version(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """One version: verdict, service, provenance, files, what it learnt from, and everything that happened to it."""
    found = get_object_or_404(
        SpeculatorVersion.objects.select_related("target", "parent"), target__slug=slug, number=number
    )
    decision = GateDecision.objects.select_related("version").filter(version=found).first()
    context = {
        "target": found.target,
        "version": found,
        "decision": decision,
        "rows": gate_rows(decision),
        "least_traces": MIN_TRACES_PER_DOMAIN,
        "served": served_periods(found),
        "swaps": recent_swaps(found.target, NUM_SWAPS, found.number),
        "requester": requester(found, decision),
        "provenance": provenance(found),
        "files": list_files(found),
        "learnt": learnt_from(found),
        "children": found.children.order_by("number").values_list("number", flat=True)[:50],
        "transitions": found.transitions.all(),
        "approvals": found.approvals.all(),
        "live": find_version(found.target, "@live"),
        "previous": find_version(found.target, "@previous"),
        "can_come_back": not cannot_come_back(found),
    }
    return render(request, "console/version.html", context)


def served_periods(found: SpeculatorVersion) -> list[dict[str, Any]]:
    """Its periods in service with what it measured in each."""
    return [
        {"period": period, **served_between(found.target, found.number, period.start, period.end)}
        for period in periods(found)[:NUM_PERIODS]
    ]


@allow("operate", "GET")
def download(request: HttpRequest, slug: str, number: int, name: str) -> StreamingHttpResponse:
    """One file of a version, streamed."""
    found = get_object_or_404(SpeculatorVersion.objects.select_related("target"), target__slug=slug, number=number)
    return file_answer(found, name, user_of(request).username)


def file_answer(found: SpeculatorVersion, name: str, actor: str) -> StreamingHttpResponse:
    """A file as a download; who took it is in the activity log. Raises Http404 where it is not on this machine."""
    file = find_file(found, name)
    if file is None:
        raise Http404(f"{found} has no file {name!r:.80} on this machine")
    slug, number = found.target.slug, found.number
    answer = StreamingHttpResponse(stream(file.path), content_type="application/octet-stream")
    answer["Content-Encoding"] = "identity"  # weights do not pack, and a known length shows how far a download is
    answer["Content-Length"] = str(file.size_bytes)
    answer["Content-Disposition"] = f'attachment; filename="{slug}-v{number}-{name}"'
    if file.sha256:
        answer["ETag"] = f'"{file.sha256}"'
    record(actor, "version.download", str(found), target_slug=slug, detail={"file": name})
    return answer
