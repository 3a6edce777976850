"""Pause, resume and start training from scripts."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Router

from aurora_web.accounts.auth import Allow, Reason, said_by
from aurora_web.registry.services import find_target
from aurora_web.training import control

router = Router(tags=["training"], auth=Allow("operate"))


@router.get("/{slug}/training", response=dict[str, Any], auth=Allow("read"))
def training_state(request: HttpRequest, slug: str) -> dict[str, Any]:
    """Whether training is paused, by whom, since when and why."""
    target = find_target(slug)
    return control.control_payload(target, control.paused(target))


@router.post("/{slug}/training/pause", response=dict[str, Any])
def pause(request: HttpRequest, slug: str, body: Reason | None = None) -> dict[str, Any]:
    """No further slice starts; one that runs comes to its end. 409 when it is paused already."""
    target = find_target(slug)
    return control.control_payload(target, control.pause(target, *said_by(request, body)))


@router.post("/{slug}/training/resume", response=dict[str, Any])
def resume(request: HttpRequest, slug: str, body: Reason | None = None) -> dict[str, Any]:
    """Slices start by themselves again. 409 when training is not paused."""
    target = find_target(slug)
    control.resume(target, *said_by(request, body))
    return control.control_payload(target, None)


@router.post("/{slug}/training/now", response={202: dict[str, Any]})
def train_now(request: HttpRequest, slug: str, body: Reason | None = None) -> tuple[int, dict[str, Any]]:
    """Queue a slice at once. 409 while training is paused, a slice is open, or no trace waits."""
    target = find_target(slug)
    row = control.train_now(target, *said_by(request, body))
    return 202, {"target": slug, "slice": row.pk.hex, "state": row.state}
