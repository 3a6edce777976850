"""Files of drafts that no version refers to: of a slice that was killed, or that had been given up when it ended."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django.conf import settings

from aurora_web.registry.models import SpeculatorVersion, Target
from aurora_web.training.models import SliceState, TrainingSlice

log = logging.getLogger(__name__)
# What slices call their directories (training_worker/slices.py), and what these are called until they are whole.
DRAFT = re.compile(r"([0-9a-f]{32})|\.([0-9a-f]{32})\.\d+")
LEAST_AGE = timedelta(days=1)  # a slice that writes for so long has been given up long before
CLOCKS_APART = timedelta(minutes=1)  # those of the database and of the storage, at most
LATE = timedelta(days=1)  # after it was given up, a slice may still write for so long


def sweep(now: datetime) -> int:
    """Delete what failed and lost slices of this database have written and nothing refers to; returns how many.

    Other consoles may keep drafts in the same directory: what was written while no such slice of the target was at
    work is not ours to judge.
    """
    aged = {target: list(_written_before(now - LEAST_AGE, target)) for target in Target.objects.all()}
    in_use = _names_in_use()  # read after the listing: what has been registered meanwhile is among them
    num_deleted = 0
    for target, found in aged.items():
        for name, folder, written_at in found:
            if name not in in_use and _is_of_a_failed_slice(target, written_at):
                num_deleted += _delete(folder)
    return num_deleted


def _written_before(latest: datetime, target: Target) -> Iterator[tuple[str, Path, datetime]]:
    """(name of the draft, directory, when it was written)"""
    place = settings.VERSIONS_DIR / target.slug
    for folder in place.iterdir() if place.is_dir() else ():
        match = DRAFT.fullmatch(folder.name)
        if match is None or folder.is_symlink():
            continue
        try:
            written_at = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
        except FileNotFoundError:  # it was renamed or pruned meanwhile
            continue
        if written_at < latest:
            yield match[1] or match[2], folder, written_at


def _names_in_use() -> set[str]:
    """Names of directories, each unique: the trainer may see the same storage at another path."""
    uris = SpeculatorVersion.objects.values_list("uri", flat=True)
    imported = Target.objects.exclude(draft_path="").values_list("draft_path", flat=True)
    return {Path(path).name for path in (*uris, *imported)}


def _is_of_a_failed_slice(target: Target, written_at: datetime) -> bool:
    """Whether a slice that brought no version was at work then."""
    return TrainingSlice.objects.filter(
        run__target=target,
        version=None,
        state__in=[SliceState.FAILED, SliceState.LOST],
        started_at__lte=written_at + CLOCKS_APART,
        finished_at__gte=written_at - LATE,
    ).exists()


def _delete(folder: Path) -> bool:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        log.warning("%s, which no version refers to, cannot be deleted: %s", folder, error)
        return False
    log.info("deleted %s, which no version refers to", folder)
    return True
