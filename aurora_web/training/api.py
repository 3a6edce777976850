"""Pause, resume and start training from scripts, and what a version learnt from."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Router

from aurora_web.accounts.auth import Allow, Reason, said_by
from aurora_web.problems import Problem
from aurora_web.registry.services import find_target, find_version
from aurora_web.training import control
from aurora_web.training.answers import LearntOut, QueuedSliceOut, TrainingPauseOut
from aurora_web.training.learnt import learnt_from
from aurora_web.wire import Documented

router = Router(tags=["training"], auth=Allow("operate"))
PauseAnswer = Annotated[dict[str, Any], Documented(TrainingPauseOut)]


@router.get("/{slug}/training", response=PauseAnswer, auth=Allow("read"))
def training_state(request: HttpRequest, slug: str) -> dict[str, Any]:
    """Whether training is paused, by whom, since when and why."""
    target = find_target(slug)
    return control.control_payload(target, control.paused(target))


@router.get("/{slug}/versions/{int:number}/learnt", response=LearntOut, auth=Allow("read"))
def version_learnt(request: HttpRequest, slug: str, number: int) -> dict[str, Any]:
    """What a version learnt from; 404 for one that no training slice made."""
    version = find_version(find_target(slug), str(number))
    found = learnt_from(version) if version else None
    if found is None:
        raise Problem(404, f"no training slice of {slug} made a version {number}")
    return {
        "num_slices": found.num_slices,
        "num_traces": found.num_traces,
        "first_at": found.first_at,
        "last_at": found.last_at,
        "domains": dict(found.domains),
        "slices": [each.hex for each in found.slices],
    }


@router.post("/{slug}/training/pause", response=PauseAnswer)
def pause(request: HttpRequest, slug: str, body: Reason | None = None) -> dict[str, Any]:
    """No further slice starts; one that runs comes to its end. 409 when it is paused already."""
    target = find_target(slug)
    return control.control_payload(target, control.pause(target, *said_by(request, body)))


@router.post("/{slug}/training/resume", response=PauseAnswer)
def resume(request: HttpRequest, slug: str, body: Reason | None = None) -> dict[str, Any]:
    """Slices start by themselves again. 409 when training is not paused."""
    target = find_target(slug)
    control.resume(target, *said_by(request, body))
    return control.control_payload(target, None)


@router.post("/{slug}/training/now", response={202: Annotated[dict[str, Any], Documented(QueuedSliceOut)]})
def train_now(request: HttpRequest, slug: str, body: Reason | None = None) -> tuple[int, dict[str, Any]]:
    """Queue a slice at once. 409 while training is paused, a slice is open, or no trace waits."""
    target = find_target(slug)
    row = control.train_now(target, *said_by(request, body))
    return 202, {"target": slug, "slice": row.pk.hex, "state": row.state}
