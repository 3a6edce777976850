"""The whole state of a page as JSON: what a browser gets on connect and after a gap; deltas change it afterwards."""

from __future__ import annotations

import time
from typing import Any

from aurora_web.console.cards import Card, cards
from aurora_web.registry.models import SpeculatorVersion, Target
from aurora_web.rollouts.alerts import alert_payload, firing_alerts
from aurora_web.rollouts.fleet import standing_payload, standings
from aurora_web.rollouts.freeze import freeze_payload, frozen
from aurora_web.rollouts.intent import deployment_payload
from aurora_web.rollouts.models import Deployment, GateDecision
from aurora_web.rollouts.services import gate_payload
from aurora_web.training.control import control_payload, paused
from aurora_web.training.models import TrainingRun

NUM_VERSIONS = 30


def target_snapshot(target: Target) -> dict[str, Any]:
    """State of one target; what the charts show comes from the API (console/charts.py), for the range of the page.

    ``{"slug", "at", "versions": [version], "gate": [verdict], "replicas": [replica], "deployment": {...} | None,
    "alerts": [alert], "run": {...} | None, "training": pause, "freeze": freeze}``
    """
    return {
        "slug": target.slug,
        "at": time.time(),
        "versions": [version_payload(v) for v in _versions(target)],
        "gate": [gate_payload(d) for d in _decisions(target)],
        "replicas": [standing_payload(found) for found in standings(target)],
        "deployment": _deployment(target),
        "alerts": [alert_payload(alert) for alert in firing_alerts(target)],
        "run": _run(target),
        "training": control_payload(target, paused(target)),
        "freeze": freeze_payload(target, frozen(target)),
    }


def overview_snapshot() -> dict[str, Any]:
    """One line per target: ``{"targets": [{"id", "slug", "name", "state", "live", "total", ...}], "at"}``."""
    return {"targets": [_overview_line(card) for card in cards()], "at": time.time()}


def _overview_line(card: Card) -> dict[str, Any]:
    return {
        "id": card.target.pk,
        "slug": card.target.slug,
        "name": card.target.name,
        "is_active": card.target.is_active,
        "state": card.state,
        "live": card.live.number if card.live else None,
        "canary": card.canary.number if card.canary else None,
        "num_alive": card.num_alive,
        "num_to_approve": card.num_to_approve,
        "alerts": [alert_payload(alert) for alert in card.alerts],
        "total": card.total,
    }


def version_payload(version: SpeculatorVersion) -> dict[str, Any]:
    """A version as the browsers get it."""
    return {
        "id": version.pk,
        "number": version.number,
        "parent": version.parent.number if version.parent else None,
        "status": version.status,
        "sha256": version.sha256,
        "size_bytes": version.size_bytes,
        "accept_length": version.accept_length(),
        "created_at": version.created_at.timestamp(),
        "is_pruned": version.pruned_at is not None,
    }


def _versions(target: Target) -> list[SpeculatorVersion]:
    return list(target.versions.select_related("parent").order_by("-number")[:NUM_VERSIONS])


def _decisions(target: Target) -> list[GateDecision]:
    found = GateDecision.objects.filter(version__target=target).select_related("version")
    return list(found.order_by("-version__number")[:NUM_VERSIONS])


def _deployment(target: Target) -> dict[str, Any] | None:
    row = Deployment.objects.filter(target=target).select_related("desired", "previous", "canary", "target").first()
    return deployment_payload(row) if row else None


def _run(target: Target) -> dict[str, Any] | None:
    run = TrainingRun.objects.filter(target=target, is_active=True).first()
    if run is None:
        return None
    last = run.slices.first()
    return {
        "step": run.step,
        "num_tokens": run.num_tokens,
        "loss": run.loss,
        "tokens_per_second": run.tokens_per_second,
        "phase": run.phase,
        "reported_at": run.reported_at.timestamp() if run.reported_at else None,
        "slice_state": last.state if last else None,
        "error": last.error if last else "",
    }
