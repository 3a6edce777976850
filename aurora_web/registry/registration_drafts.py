"""Every write about what people have typed into the registration wizard: kept over reloads, started once, expired."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from aurora_web.accounts.models import User
from aurora_web.registry.models import RegistrationDraft, Target
from aurora_web.registry.services import register_target

KEPT = timedelta(days=14)  # since somebody last typed into it
MAX_DRAFTS = 20  # of one person; the oldest goes


class DraftChanged(RuntimeError):
    """What was typed is not what the person has read: another tab has changed it since."""


def find_draft(user: User, draft_id: UUID) -> RegistrationDraft | None:
    """The person's draft, a new one (not saved) for an id that nobody has, None for one of somebody else's."""
    found = RegistrationDraft.objects.select_related("target").filter(pk=draft_id).first()
    if found is None:
        return RegistrationDraft(pk=draft_id, user=user)
    return found if found.user_id == user.pk else None


def open_drafts(user: User) -> list[RegistrationDraft]:
    """What a person has begun and not started, the newest first."""
    return list(RegistrationDraft.objects.filter(user=user, target=None))


def save_step(draft: RegistrationDraft, step: str, typed: Mapping[str, str]) -> None:
    """Keep what was typed into one step, right or wrong."""
    clean = {name: value.replace("\0", "") for name, value in typed.items()}
    with transaction.atomic():
        known = RegistrationDraft.objects.select_for_update().filter(pk=draft.pk).first()
        given = (known.given if known else {}) | {step: clean}
        RegistrationDraft.objects.update_or_create(
            pk=draft.pk, defaults={"user": draft.user, "given": given, "touched_at": timezone.now()}
        )
        old = RegistrationDraft.objects.filter(user=draft.user).values_list("pk", flat=True)[MAX_DRAFTS:]
        RegistrationDraft.objects.filter(pk__in=list(old)).delete()
    draft.given = given


def digest(draft: RegistrationDraft) -> str:
    """What was typed so far, in a few characters: whoever sends them back has read just that."""
    return hashlib.sha256(json.dumps(draft.given, sort_keys=True).encode()).hexdigest()[:32]


def start(draft: RegistrationDraft, actor: str, arguments: Mapping[str, Any], seen: str = "") -> Target:
    """Register what the draft describes; a second click gets the target of the first.

    ``arguments``: made of ``draft.given``; ``seen``: the digest of what the person has read ("" = whatever it is).
    Raises IncompatibleTarget, DraftChanged.
    """
    with transaction.atomic():
        locked = RegistrationDraft.objects.select_for_update().filter(pk=draft.pk).first()
        if locked is not None and locked.target is not None:
            return locked.target
        if (locked is not None and locked.given != draft.given) or seen not in ("", digest(draft)):
            raise DraftChanged("the plan is not the one that you read: it was changed in another tab")
        target = register_target(actor=actor, **arguments)
        RegistrationDraft.objects.filter(pk=draft.pk).update(target=target)
    return target


def discard(draft: RegistrationDraft) -> None:
    """Throw away what was typed."""
    RegistrationDraft.objects.filter(pk=draft.pk).delete()


def forget(now: datetime) -> int:
    """Delete drafts that nobody has touched for KEPT; returns how many."""
    return RegistrationDraft.objects.filter(touched_at__lt=now - KEPT).delete()[0]
