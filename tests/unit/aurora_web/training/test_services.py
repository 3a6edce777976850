"""Slices without a trainer: who may run, what is recorded, and what a killed worker leaves behind."""

import json
import uuid
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection, connections
from django.utils import timezone

from aurora_web.registry.models import SpeculatorVersion, Target
from aurora_web.registry.services import register_target
from aurora_web.rollouts import replicas
from aurora_web.rollouts.approvals import requester
from aurora_web.traces.models import Trace
from aurora_web.traces.services import ingest_segment
from aurora_web.training import control, services
from aurora_web.training.models import ProgressPoint, SliceState, TrainingRun, TrainingSlice
from aurora_web.training.selection import balanced_sample
from speculators.records import TrainProgress, VersionManifest
from tests.unit.aurora_web.conftest import segment_payload
from tests.unit.serving.tiny import make_draft
from training_worker.config import SliceResult

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def queue(monkeypatch):
    """What would have gone to the broker."""
    sent = []
    monkeypatch.setattr(services, "_enqueue", sent.append)
    return sent


def progress(job, step=1, phase="train"):
    return TrainProgress(job.target_slug, job.run_id, step, 100 * step, 2.0, 1000.0, phase, timezone.now().timestamp())


def trainer(job, report):
    """Behaves like training_worker.slices.run_slice, without weights."""
    report(progress(job))
    manifest = VersionManifest(job.target_slug, 0, job.parent_version, "/nowhere/x", "a" * 64, 1, {}, {})
    trained = tuple(s.trace_id for s in job.fresh)
    return SliceResult(manifest, None, progress(job, 2, "save"), trained, ())


def test_day_zero_starts_at_once_and_only_once(target, queue):
    assert services.tick() == 1
    assert services.tick() == 0
    [slice_id] = queue
    services.execute(slice_id, trainer)
    version = SpeculatorVersion.objects.get()
    assert (version.number, version.status) == (1, "live")  # judged right after the commit
    assert TrainingSlice.objects.get().state == SliceState.DONE
    assert TrainingRun.objects.get().step == 2
    assert ProgressPoint.objects.count() == 1


def test_two_beats_at_once_queue_one_slice_and_the_database_logs_no_error(target, queue, monkeypatch):
    errors = []

    def watch(execute, *args):
        try:
            return execute(*args)
        except Exception as error:
            errors.append(error)
            raise

    def meanwhile(run):
        TrainingSlice.objects.create(run=run)  # by the other one
        return False

    monkeypatch.setattr(services, "_is_backing_off", meanwhile)
    with connection.execute_wrapper(watch):
        assert services.schedule(target) is None
    assert (errors, queue, TrainingSlice.objects.count()) == ([], [], 1)


def test_traces_are_trained_on_once(target, queue):
    services.tick()
    services.execute(queue.pop(), trainer)
    ingest_segment(segment_payload(40, make_id=lambda: uuid.uuid4().hex))
    assert services.tick() == 1
    seen = []
    services.execute(queue.pop(), lambda job, report: seen.append(job) or trainer(job, report))
    held_out = {t.trace_id.hex for t in Trace.objects.filter(is_held_out=True)}
    assert {s.trace_id for s in seen[0].fresh}.isdisjoint(held_out)
    judged = {s.trace_id for s in seen[0].held_out}
    assert judged <= held_out and len(judged) == min(len(held_out), settings.HELD_OUT_TRACES_PER_DOMAIN)
    assert len(seen[0].fresh) == 40 - len(held_out)
    assert {s.aux_layer_ids for s in seen[0].fresh + seen[0].held_out} == {(1, 3, 4)}
    assert Trace.objects.filter(trained_at=None, is_held_out=False).count() == 0
    assert services.tick() == 0  # nothing fresh


def test_the_version_of_a_slice_that_somebody_asked_for_is_that_persons_request(target, queue):
    services.tick()
    services.execute(queue.pop(), trainer)
    ingest_segment(segment_payload(40))
    control.train_now(target, "olga")
    services.execute(queue.pop(), trainer)
    ingest_segment(segment_payload(40, make_id=lambda: uuid.uuid4().hex))
    services.tick()
    services.execute(queue.pop(), trainer)
    versions = SpeculatorVersion.objects.order_by("number")
    assert [requester(version, version.gate_decision) for version in versions] == ["", "olga", ""]


def test_a_failing_slice_gives_its_traces_back_and_backs_off(target, queue):
    class Broken(RuntimeError):
        retryable = True

    def fail(job, report):
        raise Broken("no disk")

    services.tick()
    services.execute(queue.pop(), trainer)
    ingest_segment(segment_payload(40))
    services.tick()
    services.execute(queue.pop(), fail)
    row = TrainingSlice.objects.order_by("-queued_at").first()
    assert (row.state, row.error) == (SliceState.FAILED, "Broken: no disk")
    assert not Trace.objects.filter(lease_id__isnull=False, lease_expires_at__gt=timezone.now()).exists()
    assert services.tick() == 0  # waits before the next try
    TrainingSlice.objects.update(finished_at=timezone.now() - timedelta(seconds=90))
    assert services.tick() == 1


def test_a_slice_whose_worker_died_is_given_up_and_its_traces_are_free(target, queue):
    services.tick()
    services.execute(queue.pop(), trainer)
    ingest_segment(segment_payload(40))
    services.tick()
    leased = []

    def die(job, report):
        leased.extend(job.fresh)
        raise SystemExit  # as a kill would: nothing after this line runs

    with pytest.raises(SystemExit):
        services.execute(queue.pop(), die)
    row = TrainingSlice.objects.order_by("-queued_at").first()
    TrainingSlice.objects.filter(pk=row.pk).update(
        state=SliceState.RUNNING, heartbeat_at=timezone.now() - timedelta(seconds=30), finished_at=None
    )
    assert leased
    assert services.tick() == 1
    row.refresh_from_db()
    assert row.state == SliceState.LOST
    seen = []
    services.execute(queue.pop(), lambda job, report: seen.append(job) or trainer(job, report))
    assert {s.trace_id for s in seen[0].fresh} == {s.trace_id for s in leased}


def test_a_result_that_comes_after_the_slice_was_given_up_is_dropped(target, queue):
    services.tick()

    def slow(job, report):
        result = trainer(job, report)
        TrainingSlice.objects.update(state=SliceState.LOST)
        return result

    services.execute(queue.pop(), slow)
    assert not SpeculatorVersion.objects.exists()


def test_two_workers_never_train_one_target(target, queue):
    services.tick()
    [slice_id] = queue
    ran = []
    with services._trainer_lock(target) as is_mine:
        assert is_mine
        other = connections.create_connection("default")
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [services.LOCK_CLASS, target.pk])
            assert cursor.fetchone() == (False,)
        other.close()
    services.execute(slice_id, lambda job, report: ran.append(1) or trainer(job, report))
    services.execute(slice_id, lambda job, report: ran.append(2) or trainer(job, report))  # delivered twice
    assert ran == [1]


def test_inactive_targets_are_left_alone(target, queue):
    target.is_active = False
    target.save()
    assert services.tick() == 0


def switch(is_active):
    Target.objects.update(is_active=is_active)


def test_a_target_that_is_made_inactive_while_a_slice_runs_gets_no_other(target, queue):
    services.tick()
    services.execute(queue.pop(), trainer)
    ingest_segment(segment_payload(40))
    services.tick()

    def meanwhile(job, report):
        switch(False)
        ingest_segment(segment_payload(40, make_id=lambda: uuid.uuid4().hex))
        return trainer(job, report)

    services.execute(queue.pop(), meanwhile)
    assert TrainingSlice.objects.latest("queued_at").state == SliceState.DONE  # what ran came to its end
    assert queue == []
    switch(True)
    assert services.tick() == 1


def test_a_queued_slice_of_an_inactive_target_is_given_up(target, queue):
    services.tick()
    switch(False)
    ran = []
    services.execute(queue.pop(), lambda job, report: ran.append(job) or trainer(job, report))
    assert ran == []
    services.reconcile(timezone.now())
    assert TrainingSlice.objects.get().state == SliceState.QUEUED
    TrainingSlice.objects.update(queued_at=timezone.now() - timedelta(seconds=services.QUEUED_SECONDS + 1))
    services.reconcile(timezone.now())
    assert TrainingSlice.objects.get().state == SliceState.LOST


def test_replay_is_balanced_over_domains():
    import random

    chosen = balanced_sample({"a": list(range(100)), "b": list(range(1000, 1004))}, 20, random.Random(0))
    assert len(chosen) == 20
    assert {1000, 1001, 1002, 1003} <= set(chosen)


def test_a_target_on_sglang_gets_its_day_zero_from_the_config(queue, checkpoint_dir, settings, tmp_path):
    config = json.loads((checkpoint_dir / "config.json").read_text())
    target = register_target(actor="ada", source="sglang", model_id="acme/tiny", config=config)
    services.tick()
    jobs = []
    services.execute(queue.pop(), lambda job, report: jobs.append(job) or trainer(job, report))
    assert (jobs[0].target_path, jobs[0].target_config["vocab_size"]) == ("", 61)
    assert SpeculatorVersion.objects.get().status == "live"
    settings.MODELS_DIR = tmp_path  # the trainer's: it may have the weights where the console has none
    ingest_segment(segment_payload(40, target="tiny"))
    services.tick()
    services.execute(queue.pop(), lambda job, report: jobs.append(job) or trainer(job, report))
    assert (jobs[1].target_path, jobs[1].import_path) == (str(tmp_path / "acme" / "tiny"), "")
    assert Trace.objects.filter(target=target, trained_at=None, is_held_out=False).count() == 0


@pytest.mark.parametrize(
    ("engine", "follows"),
    [
        ("aurora-embedded 0.1", True),
        ("sglang 0.5.21, aurora 0.1.0", True),
        ("sglang 0.5.21, aurora sidecar 0.1.0", False),
    ],
)
def test_drafts_follow_the_vocabulary_of_their_traffic_where_every_engine_takes_that(
    queue, target, observed, engine, follows
):
    replicas.observe(observed(engine=engine))
    jobs = []
    services.tick()
    services.execute(queue.pop(), lambda job, report: jobs.append(job) or trainer(job, report))
    assert [job.follows_vocabulary for job in jobs] == [follows]


@pytest.mark.parametrize(("wanted", "learnt"), [(2, 2), (0, 4)])
def test_drafts_learn_on_for_drafting_while_speculation_is_off(target, queue, wanted, learnt):
    """Replayed without drafts every version is alike: none would be better than the live one."""
    Target.objects.update(max_lookahead=wanted)
    jobs = []
    services.tick()
    services.execute(queue.pop(), lambda job, report: jobs.append(job) or trainer(job, report))
    assert [job.lookahead for job in jobs] == [learnt]


def test_an_imported_draft_is_handed_to_the_first_slice_only(queue, checkpoint_dir, tmp_path):
    config = json.loads((checkpoint_dir / "config.json").read_text())
    make_draft(tmp_path / "draft", config, seed=1)
    given = {"path": str(checkpoint_dir), "slug": "demo", "draft_path": str(tmp_path / "draft")}
    register_target(actor="ada", source="sglang", **given)
    jobs = []
    for _ in range(2):
        services.tick()
        services.execute(queue.pop(), lambda job, report: jobs.append(job) or trainer(job, report))
        ingest_segment(segment_payload(40))
    assert [job.import_path for job in jobs] == [str(tmp_path / "draft"), ""]
