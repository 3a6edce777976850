"""Ingest of counts, and the figures of a target."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from ninja import Router
from ninja.params.functions import Query as Param

from aurora_web.accounts.auth import Allow
from aurora_web.metrics import services
from aurora_web.metrics.answers import MetricsOut, SeriesPointOut
from aurora_web.moments import moment_of
from aurora_web.registry.services import find_target
from aurora_web.wire import Documented, body_schema, json_answer, read_json

ingest_router = Router(tags=["ingest"], auth=Allow("ingest"))
router = Router(tags=["targets"], auth=Allow("read"))
SINCE: Any = Param("", description="ISO 8601 (UTC without an offset) or Unix seconds; ten minutes ago by default")
UNTIL: Any = Param("", description="as since; now by default")


@ingest_router.post(
    "/counts",
    response=dict[str, int],
    openapi_extra=body_schema(
        "CountWindows (speculators/records.py)", {"counts": {"type": "array", "items": {"type": "object"}}}
    ),
)
def ingest_counts(request: HttpRequest) -> dict[str, int]:
    """Store count windows, all or nothing; idempotent on window_id."""
    accepted, duplicates = services.ingest_counts(read_json(request))
    return {"accepted": accepted, "duplicates": duplicates}


@router.get("/{slug}/metrics", response=Annotated[dict[str, Any], Documented(MetricsOut)])
def target_metrics(request: HttpRequest, slug: str, domain: str = "", since: str = SINCE) -> dict[str, Any]:
    """Counts, accept length, tokens/s with and without speculation, speedup with its 95 % interval, per domain."""
    return services.summary(find_target(slug), domain=domain or None, since=_seconds("since", since))


@router.get("/{slug}/series", response=Annotated[Any, Documented(list[SeriesPointOut])])
def target_series(request: HttpRequest, slug: str, since: str = SINCE, until: str = UNTIL) -> HttpResponse:
    """The charts' points: one per domain and ten-second window."""
    begin, end = _seconds("since", since), _seconds("until", until)
    return json_answer(services.series(find_target(slug), since=begin, until=end))


def _seconds(name: str, text: str) -> float | None:
    found = moment_of(name, text)
    return None if found is None else found.timestamp()
