"""Servers that report with a valid token before there is a target of their name: listed, registered, forgotten."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from aurora_web.registry.models import AnnouncedReplica, Target, validate_json
from speculators.records import Announcement, RecordError

KEPT = timedelta(hours=24)  # since its last announcement
FRESH = timedelta(seconds=60)  # servers announce themselves every few seconds; then they are called silent
MAX_REPLICAS = 200
MAX_CONFIG_BYTES = 200_000
SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SIZES = {"replica": 200, "engine": 100, "url": 500, "model_path": 1000}


@transaction.atomic
def announce(said: Announcement) -> bool:
    """Keep what a server says about its model; False when its target is registered by now. Raises RecordError."""
    _check(said)
    if Target.objects.filter(slug=said.target).exists():
        return False
    now = timezone.now()
    known = AnnouncedReplica.objects.filter(slug=said.target, name=said.replica)
    if not known.exists():
        forget(now)
        if AnnouncedReplica.objects.count() >= MAX_REPLICAS:
            raise RecordError(f"{MAX_REPLICAS} servers wait for their targets: register some, or stop some")
    AnnouncedReplica.objects.update_or_create(
        slug=said.target,
        name=said.replica,
        defaults={
            "engine": said.engine,
            "url": said.url,
            "model_path": said.model_path,
            "draft_path": said.draft_path,
            "aux_layer_ids": list(said.aux_layer_ids),
            "config": said.config,
            "seen_at": now,
        },
    )
    return True


def _check(said: Announcement) -> None:
    if not SLUG.fullmatch(said.target):
        raise RecordError(f"Announcement.target: {said.target!r:.80} is no slug: expected a-z, 0-9, '.', '_' and '-'")
    for name, most in (*SIZES.items(), ("draft_path", 1000)):
        value = getattr(said, name)
        if len(value) > most or "\0" in value or (not value and name in SIZES):
            raise RecordError(f"Announcement.{name}: expected 1 to {most} characters, got {value!r:.80}")
    if len(said.aux_layer_ids) > 16:
        raise RecordError(f"Announcement.aux_layer_ids: expected a few layers, got {len(said.aux_layer_ids)}")
    try:
        num_bytes = validate_json(said.config)
    except ValidationError as error:
        raise RecordError(f"Announcement.config: {error.messages[0]}") from error
    if num_bytes > MAX_CONFIG_BYTES:
        raise RecordError(f"Announcement.config: {num_bytes} bytes, expected at most {MAX_CONFIG_BYTES}")


def announced_replicas() -> list[AnnouncedReplica]:
    """Servers that wait for a target, by its name."""
    return list(AnnouncedReplica.objects.filter(seen_at__gte=timezone.now() - KEPT))


def forget(now: datetime) -> int:
    """Delete servers that have been silent for KEPT; returns how many."""
    return AnnouncedReplica.objects.filter(seen_at__lt=now - KEPT).delete()[0]
