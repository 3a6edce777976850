"""Every replica of one target, or of all: desired against observed, proof, capture, swap times."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone

from aurora_web.accounts.access import allow
from aurora_web.registry.models import Target
from aurora_web.rollouts.fleet import Standing, fleet_standings, standings
from aurora_web.rollouts.swaps import latest_arrivals, recent_swaps

REPLICAS_PER_PAGE = 50
NUM_SWAPS = 10
STATES = {
    "all": "All",
    "trouble": "In trouble",
    "down": "Down",
    "behind": "Behind",
    "capture": "Capture not working",
    "unproved": "Not proved",
}


def _is_in(found: Standing, state: str) -> bool:
    """Whether a replica belongs to one of the states that the address may ask for."""
    is_broken = found.replica.is_alive and found.replica.capture_state != "working"
    is_wrong = found.is_proven is False or found.is_target_untouched is False
    known = {
        "down": found.progress == "down",
        "behind": found.progress in {"behind", "catching up"},
        "capture": is_broken,
        "unproved": is_wrong,
    }
    if state == "trouble":
        return found.progress in {"down", "behind"} or found.replica.capture_state == "broken" or is_wrong
    return known.get(state, True)


def _context(request: HttpRequest, everything: Sequence[Standing]) -> dict[str, Any]:
    chosen = {name: request.GET.get(name, "").strip() for name in ("state", "q")}
    chosen["state"] = chosen["state"] if chosen["state"] in STATES else "all"
    text = chosen["q"].lower()
    matching = [found for found in everything if _is_in(found, chosen["state"]) and (not text or text in _words(found))]
    page = Paginator(matching, REPLICAS_PER_PAGE).get_page(request.GET.get("page"))
    query = request.GET.copy()
    query.pop("page", None)
    return {
        "page": page,
        "lines": _lines(list(page)),
        "tiles": _tiles(everything),
        "states": STATES,
        "chosen": chosen,
        "is_filtered": bool(text) or chosen["state"] != "all",
        "query": query.urlencode(),
        "timeout": settings.REPLICA_TIMEOUT_SECONDS,
    }


def _words(found: Standing) -> str:
    return f"{found.replica.name} {found.replica.engine} {found.replica.url}".lower()


def _lines(shown: Sequence[Standing]) -> list[dict[str, Any]]:
    """Standings with the time that the last swap took on each; a report older than the timeout is stale."""
    arrivals = latest_arrivals([found.replica for found in shown])
    oldest = timezone.now() - timedelta(seconds=settings.REPLICA_TIMEOUT_SECONDS)
    return [
        {
            "found": found,
            "replica": found.replica,
            "seconds": arrivals.get((found.replica.target_id, found.replica.name)),
            "is_stale": found.replica.seen_at < oldest,
        }
        for found in shown
    ]


def _tiles(everything: Sequence[Standing]) -> dict[str, Any]:
    alive = [found for found in everything if found.replica.is_alive]
    return {
        "total": len(everything),
        "alive": len(alive),
        "up_to_date": sum(found.progress == "up to date" for found in alive),
        "with_draft": sum(found.is_proven is not None for found in alive),
        "proved": sum(found.is_proven is True for found in alive),
        "measured": sum(found.is_target_untouched is not None for found in alive),
        "untouched": sum(found.is_target_untouched is True for found in alive),
        "capturing": sum(found.replica.capture_state == "working" for found in alive),
        "traces_per_second": sum(found.replica.traces_per_second or 0.0 for found in alive),
        "queue_bytes": sum(found.replica.queue_bytes for found in alive),
        "dropped": sum(found.replica.num_dropped_traces for found in everything),
    }


@allow("read")
def fleet(request: HttpRequest) -> HttpResponse:
    """Every replica of every target."""
    return render(request, "console/replicas.html", _context(request, fleet_standings()))


@allow("read")
def replicas(request: HttpRequest, slug: str) -> HttpResponse:
    """Every replica of one target, and how long its last swaps took."""
    target = get_object_or_404(Target, slug=slug)
    context = _context(request, standings(target))
    return render(
        request, "console/replicas.html", context | {"target": target, "swaps": recent_swaps(target, NUM_SWAPS)}
    )
