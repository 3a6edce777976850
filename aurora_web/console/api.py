"""What the target's page shows, for scripts: its state, charts, events, and the table as CSV."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from ninja import Router

from aurora_web.accounts.auth import Allow
from aurora_web.console import charts, phases
from aurora_web.console.answers import EventOut, StateOut
from aurora_web.console.fleet import canary_context
from aurora_web.console.ranges import RANGES, TimeRange, time_range
from aurora_web.console.timeline import timeline
from aurora_web.problems import Problem
from aurora_web.registry.services import find_target, find_version
from aurora_web.snapshots import target_snapshot
from aurora_web.training.models import TrainingRun
from aurora_web.wire import Documented, file_schema, json_answer

router = Router(tags=["targets"], auth=Allow("read"))


@router.get("/{slug}/state", response=Annotated[dict[str, Any], Documented(StateOut)])
def target_state(request: HttpRequest, slug: str) -> dict[str, Any]:
    """All but the charts: versions with their verdicts, replicas, what is wanted of them (``deployment``; ``is_held``
    after a rollback), alerts, training, pause, freeze; ``canary``, what it has measured so far against the others, with
    the reasons (null = none); ``steps``, how far the next version has come, with seconds left as an estimate (null =
    cannot be known) and a ``note`` on what is waited for."""
    target = find_target(slug)
    run = TrainingRun.objects.filter(target=target, is_active=True).first()
    facts = phases.facts_of(target, find_version(target, "@live"), run, run.slices.first() if run else None)
    verdict = canary_context(target).get("canary_verdict")
    measured = {"canary": asdict(verdict) if verdict else None, "steps": [asdict(step) for step in phases.steps(facts)]}
    return target_snapshot(target) | measured


@router.get("/{slug}/charts", response=dict[str, Any])
def target_charts(request: HttpRequest, slug: str, domain: str = "") -> HttpResponse:
    """Everything the charts show: sums per bucket, speedup with its 95 % band, loss, capture, the newest 300 marks.

    The range as on the page: ``range`` (5m, 30m, 3h, 24h), or ``from`` and ``to`` (ISO 8601, UTC; to = now if missing).
    """
    found = _range(request)
    return json_answer(charts.chart_data(find_target(slug), found.since, found.until, domain))


@router.get("/{slug}/charts.csv", response=None, openapi_extra=file_schema("The charts as a table", "text/csv"))
def charts_csv(request: HttpRequest, slug: str, domain: str = "") -> HttpResponse:
    """The charts as a table, one line per bucket, oldest first; the range as for charts.

    Columns of everything (or of ``domain``) come first; then ``num_requests:<domain>`` and ``accept_length:<domain>``
    for each domain, and ``tokens:<version>`` for each version, ``tokens:control`` among them.
    """
    target, found = find_target(slug), _range(request)
    points, bucket = charts.points_of(target, found.since, found.until)
    rows = charts.table(target, found.since, found.until, points, bucket, domain)
    text = charts.as_csv(rows, points, domain)
    answer = HttpResponse(text, content_type="text/csv; charset=utf-8")
    answer["content-disposition"] = f'attachment; filename="{slug}-charts.csv"'
    return answer


@router.get("/{slug}/events", response=Annotated[list[dict[str, Any]], Documented(list[EventOut])])
def events(request: HttpRequest, slug: str) -> list[dict[str, Any]]:
    """What happened, in sentences, newest first; the range as for charts."""
    found = _range(request)
    return timeline(find_target(slug), found.since, found.until)


def _range(request: HttpRequest) -> TimeRange:
    found = time_range(request.GET)
    name = request.GET.get("range", "")
    if found.problem:
        raise Problem(422, found.problem)
    if name and name not in RANGES:
        raise Problem(422, f"range is {name!r:.40}: expected one of {', '.join(RANGES)}, or from and to")
    return found
