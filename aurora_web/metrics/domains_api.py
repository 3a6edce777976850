"""Figures per domain, drift, and worst slices."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Router

from aurora_web.accounts.auth import Allow
from aurora_web.exports import to_csv
from aurora_web.metrics import domains, slices
from aurora_web.metrics.answers import DomainsOut, SlicesOut
from aurora_web.problems import Problem
from aurora_web.registry.models import Target
from aurora_web.registry.services import find_target
from aurora_web.wire import Documented, file_schema

TREND_COLUMNS = ("at", "domain", "num_requests", "share", "num_accept_tokens", "num_verify_steps", "accept_length")
router = Router(tags=["domains"], auth=Allow("read"))


def domain_figures(target: Target, name: str) -> dict[str, Any]:
    """Everything about a target's domains over a range of domains.RANGES; for the page and the API alike."""
    seconds, width = domains.RANGES[name]
    until = timezone.now()
    since = until - timedelta(seconds=seconds)
    rows = domains.read_sums(target, since, until, width)
    versions, lines = domains.heatmap(rows, target.expected_domains)
    return {
        "target": target.slug,
        "range": name,
        "since": since.timestamp(),
        "until": until.timestamp(),
        "window_seconds": width,
        "versions": versions,
        "domains": lines,
        "trend": domains.trend(rows),
        "drift": domains.find_drift(rows, width),
    }


def _checked(name: str) -> str:
    if name not in domains.RANGES:
        raise Problem(422, f"range is {name!r:.40}: expected one of {', '.join(domains.RANGES)}")
    return name


@router.get("/{slug}/domains", response=Annotated[dict[str, Any], Documented(DomainsOut)])
def target_domains(request: HttpRequest, slug: str, range: str = domains.DEFAULT_RANGE) -> dict[str, Any]:
    """Share of traffic, accept length per version with its 95 % interval, trend and drift of each domain.

    ``range``: 1h, 24h or 7d, in windows of 5 minutes, 1 hour or 6 hours.
    """
    found = domain_figures(find_target(slug), _checked(range))
    return found | {"domains": [asdict(d) for d in found["domains"]], "drift": [asdict(d) for d in found["drift"]]}


@router.get("/{slug}/domains.csv", response=None, openapi_extra=file_schema("The trends as a table", "text/csv"))
def target_domains_csv(request: HttpRequest, slug: str, range: str = domains.DEFAULT_RANGE) -> HttpResponse:
    """The trend of each domain, one line per window and domain, oldest first; ``range`` as for domains."""
    points = domain_figures(find_target(slug), _checked(range))["trend"]
    rows = [{**point, "at": datetime.fromtimestamp(point["at"], UTC)} for point in points]
    answer = HttpResponse(to_csv(TREND_COLUMNS, rows), content_type="text/csv; charset=utf-8")
    answer["content-disposition"] = f'attachment; filename="{slug}-domains.csv"'
    return answer


@router.get("/{slug}/slices", response=Annotated[dict[str, Any], Documented(SlicesOut)])
def target_slices(request: HttpRequest, slug: str, range: str = domains.DEFAULT_RANGE) -> dict[str, Any]:
    """Accept length by domain x context length x output position, worst first, from the newest 400 drafted traces.

    ``trace_ids`` of a slice: up to three traces with the lowest accept length there.
    """
    since = timezone.now() - timedelta(seconds=domains.RANGES[_checked(range)][0])
    found, num_traces = slices.worst_slices(find_target(slug), since)
    return {"num_traces": num_traces, "sample": slices.SAMPLE, "slices": [asdict(s) for s in found]}
