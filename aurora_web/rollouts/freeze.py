"""Freeze: no version of a target goes live by itself until somebody unfreezes.

Beside it there is the hold that a rollback leaves. A hold ends with the next approval, since the person has then seen
what comes next; a freeze stays through approvals, promotions and rollbacks, and ends only when somebody unfreezes.
Neither stops what undoes: reverts and the end of a bad canary go on.
"""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone

from aurora_web import live
from aurora_web.accounts.services import record
from aurora_web.registry.models import Target
from aurora_web.rollouts.intent import RolloutError, lock_deployment
from aurora_web.rollouts.models import Freeze


@transaction.atomic
def freeze(target: Target, actor: str, reason: str = "") -> Freeze:
    """Nothing goes live by itself from now on. Raises RolloutError when it is frozen already."""
    lock_deployment(target)
    if (known := frozen(target)) is not None:
        raise RolloutError(f"{target.slug} is frozen already, by {known.actor}: unfreeze it to change that")
    found = Freeze.objects.create(target=target, actor=actor, reason=reason)
    _record(target, actor, "target.freeze", reason, is_frozen=True)
    live.publish(target.pk, "freeze", freeze_payload(target, found))
    return found


@transaction.atomic
def unfreeze(target: Target, actor: str, reason: str = "") -> None:
    """The policy decides again. Raises RolloutError when nothing is frozen."""
    lock_deployment(target)
    num_deleted, _ = Freeze.objects.filter(target=target).delete()
    if not num_deleted:
        raise RolloutError(f"{target.slug} is not frozen: there is nothing to unfreeze")
    _record(target, actor, "target.unfreeze", reason, is_frozen=False)
    live.publish(target.pk, "freeze", freeze_payload(target, None))


def _record(target: Target, actor: str, action: str, reason: str, *, is_frozen: bool) -> None:
    detail = {"old": {"is_frozen": not is_frozen}, "new": {"is_frozen": is_frozen}}
    record(actor, action, target.slug, target_slug=target.slug, reason=reason, detail=detail)


def frozen(target: Target) -> Freeze | None:
    """Who froze a target, when and why; None when it is not frozen."""
    return Freeze.objects.filter(target=target).first()


def freeze_payload(target: Target, found: Freeze | None) -> dict[str, Any]:
    """The state of the switch as the browsers and the API get it."""
    return {
        "target": target.slug,
        "is_frozen": found is not None,
        "by": found.actor if found else None,
        "reason": found.reason if found else "",
        "at": (found.at if found else timezone.now()).timestamp(),
    }
