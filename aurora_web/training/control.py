"""What a person may tell the trainer of a target: pause, resume, and train now."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone

from aurora_web import live
from aurora_web.accounts.services import record
from aurora_web.registry.models import Target
from aurora_web.traces import services as traces
from aurora_web.training import services
from aurora_web.training.models import TrainingPause, TrainingSlice


class TrainingRefused(ValueError):
    """What was asked of the trainer cannot be done now; the message says why and what would be right."""


@transaction.atomic
def pause(target: Target, actor: str, reason: str = "") -> TrainingPause:
    """No further slice starts until somebody resumes; one that runs comes to its end. Raises TrainingRefused."""
    found, is_new = TrainingPause.objects.get_or_create(target=target, defaults={"actor": actor, "reason": reason})
    if not is_new:
        raise TrainingRefused(f"training of {target.slug} is paused already, by {found.actor}")
    _record(target, actor, "training.pause", reason, is_paused=True)
    live.publish(target.pk, "training", control_payload(target, found))
    return found


@transaction.atomic
def resume(target: Target, actor: str, reason: str = "") -> None:
    """Slices start by themselves again. Raises TrainingRefused."""
    num_deleted, _ = TrainingPause.objects.filter(target=target).delete()
    if not num_deleted:
        raise TrainingRefused(f"training of {target.slug} is not paused: there is nothing to resume")
    _record(target, actor, "training.resume", reason, is_paused=False)
    live.publish(target.pk, "training", control_payload(target, None))


def _record(target: Target, actor: str, action: str, reason: str, *, is_paused: bool) -> None:
    detail = {"old": {"is_paused": not is_paused}, "new": {"is_paused": is_paused}}
    record(actor, action, target.slug, target_slug=target.slug, reason=reason, detail=detail)


def train_now(target: Target, actor: str, reason: str = "") -> TrainingSlice:
    """Queue a slice at once: no wait for more traces, nor after a failure. Raises TrainingRefused.

    The version that the slice makes is ``actor``'s own request (rollouts.approvals.requester).
    """
    if (found := paused(target)) is not None:
        raise TrainingRefused(f"training of {target.slug} is paused by {found.actor}: resume it first")
    if not target.is_active:
        raise TrainingRefused(f"{target.slug} is inactive: an admin activates it in its settings")
    num_fresh, _ = traces.count_fresh(target, 1)
    if not num_fresh:
        raise TrainingRefused(f"no trace of {target.slug} waits to be trained on: requests have to finish first")
    with transaction.atomic():
        row = services.schedule(target, requested_by=actor)
        if row is None:
            raise TrainingRefused(f"a slice of {target.slug} is queued or running already: it takes the newest traces")
        record(actor, "training.now", target.slug, target_slug=target.slug, reason=reason)
        live.publish(target.pk, "slice", {"id": row.pk.hex, "state": row.state})
    return row


def paused(target: Target) -> TrainingPause | None:
    """Who paused the training of a target, when and why; None when it runs."""
    return TrainingPause.objects.filter(target=target).first()


def control_payload(target: Target, found: TrainingPause | None) -> dict[str, Any]:
    """The state of the switch as the browsers and the API get it."""
    return {
        "target": target.slug,
        "is_paused": found is not None,
        "by": found.actor if found else None,
        "reason": found.reason if found else "",
        "at": (found.at if found else timezone.now()).timestamp(),
    }
