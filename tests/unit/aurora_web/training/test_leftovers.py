"""Files of drafts without a version: which are deleted, and which never."""

import os
import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.registry.models import SpeculatorVersion, Target
from aurora_web.training import leftovers, services, tasks
from aurora_web.training.models import SliceState, TrainingSlice

HOUR = timedelta(hours=1)
NOW = timezone.now()


@pytest.fixture(autouse=True)
def versions_dir(settings, tmp_path):
    settings.VERSIONS_DIR = tmp_path / "versions"
    return settings.VERSIONS_DIR


@pytest.fixture
def draft(target, versions_dir):
    """draft(age): a directory as a slice of the target leaves it."""

    def write(age, name="", slug="demo"):
        folder = versions_dir / slug / (name or uuid.uuid4().hex)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"x")
        written = (NOW - age).timestamp()
        os.utime(folder, (written, written))
        return folder

    return write


@pytest.fixture
def ended(target):
    """ended(age, state): a slice of the target that was at work until then, for ten minutes."""

    def make(age, state=SliceState.FAILED, of=target):
        at = NOW - age
        return TrainingSlice.objects.create(
            run=services.active_run(of), state=state, started_at=at - timedelta(minutes=10), finished_at=at
        )

    return make


@pytest.mark.parametrize("state", [SliceState.FAILED, SliceState.LOST])
def test_what_a_slice_without_a_version_has_left_is_deleted_a_day_after(draft, ended, state):
    ended(30 * HOUR, state)
    ended(20 * HOUR, state)
    old, unfinished = draft(30 * HOUR), draft(30 * HOUR, name=f".{uuid.uuid4().hex}.4711")
    late, fresh = draft(26 * HOUR), draft(20 * HOUR)  # the slice was given up four hours before it wrote the first
    assert leftovers.sweep(NOW) == 3
    assert [each.exists() for each in (old, unfinished, late, fresh)] == [False, False, False, True]
    assert leftovers.sweep(NOW) == 0


def test_what_a_row_refers_to_stays_wherever_the_trainer_sees_it(draft, ended, target, make_version):
    ended(30 * HOUR)
    known, elsewhere, copied = (draft(30 * HOUR) for _ in range(3))
    for uri in (str(known), f"/mnt/trainers/versions/demo/{elsewhere.name}"):
        SpeculatorVersion.objects.filter(pk=make_version().pk).update(uri=uri)
    Target.objects.filter(pk=target.pk).update(draft_path=str(copied))
    assert leftovers.sweep(NOW) == 0
    assert all(each.exists() for each in (known, elsewhere, copied))


def test_what_no_failed_slice_of_this_database_wrote_stays(draft, ended, target, versions_dir):
    """Another console's drafts in the same directory, an unknown target's, somebody's own directories, a link."""
    ended(30 * HOUR)
    stranger = draft(100 * HOUR)
    unknown = draft(30 * HOUR, slug="unknown")
    own = draft(30 * HOUR, name="keep-this")
    linked = versions_dir / "demo" / uuid.uuid4().hex
    linked.symlink_to(own)
    ended(60 * HOUR, SliceState.DONE)
    brought = draft(60 * HOUR + timedelta(minutes=5))
    assert leftovers.sweep(NOW) == 0
    assert all(each.exists() for each in (stranger, unknown, own, linked, brought))


def test_beat_sweeps_by_the_hour(settings, monkeypatch):
    swept = []
    monkeypatch.setattr(leftovers, "sweep", swept.append)
    tasks.sweep()
    entry = settings.CELERY_BEAT_SCHEDULE[tasks.sweep.name]
    assert len(swept) == 1 and (entry["task"], entry["schedule"]) == (tasks.sweep.name, 3600)
