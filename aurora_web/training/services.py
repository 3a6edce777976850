"""Every write about training: schedule slices, run them, record progress and results, find the lost ones.

Who may train is decided in Postgres, not by the broker: one open slice per run (unique constraint), an advisory lock
per target held by the worker's connection (a killed worker loses it at once), leases on the traces.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Max, Q
from django.utils import timezone

from aurora_web import live
from aurora_web.registry.models import Target
from aurora_web.registry.services import register_version
from aurora_web.retention.services import kept
from aurora_web.traces import services as traces
from aurora_web.training.models import ProgressPoint, SliceState, TrainingPause, TrainingRun, TrainingSlice
from speculators.records import TrainProgress

if TYPE_CHECKING:
    from training_worker.config import SliceJob, SliceResult

log = logging.getLogger(__name__)
ACTOR = "trainer"
LOCK_CLASS = 0x4155  # first key of the advisory lock; the second is the target's id
LEASE_SECONDS = 120.0
QUEUED_SECONDS = 45.0  # a message not taken by then is void; the slice is queued again
SILENCE_SECONDS = 3.0  # without a heartbeat for so long, ask the lock whether the worker lives
HUNG_SECONDS = 600.0  # a worker that lives but says nothing
OLDEST_WAIT_SECONDS = 10.0  # fewer than MIN_FRESH_TRACES are trained on after this wait
FIRST_SLICE_SECONDS = 2.0  # slices start short, so that day 0 is quick, and grow by one second each
MAX_BACKOFF_SECONDS = 60.0
OPEN = (SliceState.QUEUED, SliceState.RUNNING)

RunSlice = Callable[["SliceJob", Callable[[TrainProgress], None]], "SliceResult"]


def active_run(target: Target) -> TrainingRun:
    """The target's current lineage of optimiser steps, begun when there is none."""
    return TrainingRun.objects.get_or_create(target=target, is_active=True)[0]


def tick() -> int:
    """Start the next slice of every target that has something to train on; returns how many were started."""
    return sum(schedule(target) is not None for target in Target.objects.filter(is_active=True))


def schedule(target: Target, *, requested_by: str = "") -> TrainingSlice | None:
    """Queue the next slice of ``target`` when one is due (or ``requested_by`` asked for it) and none is open.

    While training is paused only version 1 is made, which no trace is needed for. Of an inactive target nothing is.
    """
    if not _is_active(target):
        return None
    run = active_run(target)
    open_slice = run.slices.filter(state__in=OPEN).first()
    if open_slice is not None and not _lose_if_dead(open_slice, target):
        return None
    is_day_zero = not target.versions.exists()
    if not is_day_zero and TrainingPause.objects.filter(target=target).exists():
        return None
    if not requested_by and (not (is_day_zero or _is_due(target)) or _is_backing_off(run)):
        return None
    return _queue(TrainingSlice(run=run, is_day_zero=is_day_zero, requested_by=requested_by))


@transaction.atomic
def _queue(row: TrainingSlice) -> TrainingSlice | None:
    """None where somebody else queued one first: every beat may, so it is no error in the database's log."""
    TrainingSlice.objects.bulk_create([row], ignore_conflicts=True)
    if not TrainingSlice.objects.filter(pk=row.pk).exists():
        return None
    transaction.on_commit(lambda: _enqueue(row.pk))
    return row


def _is_active(target: Target) -> bool:
    """Now: it may have been switched off while a slice was queued or running."""
    return Target.objects.filter(pk=target.pk, is_active=True).exists()


def _is_due(target: Target) -> bool:
    num_fresh, oldest = traces.count_fresh(target, settings.MIN_FRESH_TRACES)
    if num_fresh >= settings.MIN_FRESH_TRACES:
        return True
    return oldest is not None and timezone.now() - oldest > timedelta(seconds=OLDEST_WAIT_SECONDS)


def last_sign_of_life(run: TrainingRun) -> datetime:
    """When a slice of the run last worked or finished well; the run's start when none ever did."""
    latest = run.slices.aggregate(
        done=Max("finished_at", filter=Q(state=SliceState.DONE)),
        worked=Max("heartbeat_at", filter=Q(state=SliceState.RUNNING)),
    )
    return max(at for at in (run.started_at, latest["done"], latest["worked"]) if at is not None)


def is_work_waiting(target: Target) -> bool:
    """Whether a slice is due: enough fresh traces, or old ones, or day 0."""
    return not target.versions.exists() or _is_due(target)


def _is_backing_off(run: TrainingRun) -> bool:
    """After n failures in a row wait 2^n seconds: a broken target must not fill the log and the queue."""
    last = list(run.slices.order_by("-queued_at").values_list("state", "finished_at")[:8])
    num_failed = next((i for i, (state, _) in enumerate(last) if state != SliceState.FAILED), len(last))
    if num_failed == 0 or last[0][1] is None:
        return False
    return timezone.now() - last[0][1] < timedelta(seconds=min(2.0**num_failed, MAX_BACKOFF_SECONDS))


def _enqueue(slice_id: UUID) -> None:
    from aurora_web.training.tasks import run_slice

    run_slice.apply_async((slice_id.hex,), expires=QUEUED_SECONDS)


def execute(slice_id: UUID, run_slice: RunSlice) -> None:
    """Run one queued slice to its end, record the outcome, and queue the next.

    That of a target that was made inactive meanwhile stays queued, for ``reconcile`` to give up.
    """
    row = TrainingSlice.objects.select_related("run__target").filter(pk=slice_id).first()
    if row is None or not row.run.target.is_active:
        return
    target = row.run.target
    with _trainer_lock(target) as is_mine:
        claimed = TrainingSlice.objects.filter(pk=row.pk, state=SliceState.QUEUED)
        now = timezone.now()
        if not is_mine or not claimed.update(state=SliceState.RUNNING, started_at=now, heartbeat_at=now):
            log.info("slice %s is not ours to run", slice_id)
            return
        live.publish(target.pk, "slice", {"id": row.pk.hex, "state": SliceState.RUNNING})
        _run_claimed(row, target, run_slice)
    schedule(target)


def _run_claimed(row: TrainingSlice, target: Target, run_slice: RunSlice) -> None:
    from aurora_web.training.jobs import build_job

    try:
        job = build_job(row, target)
        result = run_slice(job, lambda progress: record_progress(row, progress))
        _finish(row, target, result)
    except Exception as error:
        _fail(row, target, error)
        if not getattr(error, "retryable", False):  # TrainingError says so; anything else is a bug and is logged whole
            raise
        log.warning("slice %s of %s failed: %s", row.pk, target.slug, error)


@transaction.atomic
def record_progress(row: TrainingSlice, progress: TrainProgress) -> None:
    """Store one heartbeat of a slice, hold its leases for longer, and tell the browsers."""
    now = timezone.now()
    TrainingSlice.objects.filter(pk=row.pk, state=SliceState.RUNNING).update(heartbeat_at=now)
    at = datetime.fromtimestamp(progress.reported_at, UTC)
    facts = {
        "step": progress.step,
        "num_tokens": progress.num_tokens,
        "loss": progress.loss,
        "tokens_per_second": progress.tokens_per_second,
        "phase": progress.phase,
    }
    TrainingRun.objects.filter(pk=row.run_id).update(**facts, reported_at=now)
    if progress.phase == "train":  # in the other phases the loss is that of the last step
        ProgressPoint.objects.create(run_id=row.run_id, at=at, **facts)
    traces.extend_lease(row.pk, LEASE_SECONDS)
    live.publish(row.run.target_id, "progress", progress.to_json())


@transaction.atomic
def _finish(row: TrainingSlice, target: Target, result: SliceResult) -> None:
    """One transaction: the slice is done, its traces are trained on, its candidate has a number. Or none of it."""
    done = TrainingSlice.objects.filter(pk=row.pk, state=SliceState.RUNNING)
    if not done.update(state=SliceState.DONE, finished_at=timezone.now(), num_missing=len(result.missing_trace_ids)):
        log.warning("slice %s of %s finished after it was given up; its result is dropped", row.pk, target.slug)
        return
    trained = [UUID(hex=i) for i in result.trained_trace_ids]
    traces.acknowledge(row.pk, trained, [UUID(hex=i) for i in result.missing_trace_ids])
    record_progress(row, result.progress)
    if result.manifest is not None:
        version = register_version(target, result.manifest, result.report, ACTOR)
        TrainingSlice.objects.filter(pk=row.pk).update(version=version)
    live.publish(target.pk, "slice", {"id": row.pk.hex, "state": SliceState.DONE})


def _fail(row: TrainingSlice, target: Target, error: Exception) -> None:
    with transaction.atomic():
        running = TrainingSlice.objects.filter(pk=row.pk, state=SliceState.RUNNING)
        running.update(state=SliceState.FAILED, finished_at=timezone.now(), error=f"{type(error).__name__}: {error}")
        traces.release(row.pk)
        live.publish(target.pk, "slice", {"id": row.pk.hex, "state": SliceState.FAILED, "error": str(error)})


def _lose_if_dead(row: TrainingSlice, target: Target) -> bool:
    """Give up an open slice whose message or worker is gone; its traces are free again. True when given up."""
    now = timezone.now()
    if row.state == SliceState.QUEUED:
        is_dead = now - row.queued_at > timedelta(seconds=QUEUED_SECONDS)
    else:
        silence = now - (row.heartbeat_at or row.queued_at)
        is_hung = silence > timedelta(seconds=HUNG_SECONDS)
        is_dead = is_hung or (silence > timedelta(seconds=SILENCE_SECONDS) and not _is_locked(target))
    if not is_dead:
        return False
    with transaction.atomic():
        if not TrainingSlice.objects.filter(pk=row.pk, state=row.state).update(state=SliceState.LOST, finished_at=now):
            return False
        num_released = traces.release(row.pk)
        live.publish(target.pk, "slice", {"id": row.pk.hex, "state": SliceState.LOST})
    log.warning("slice %s of %s was lost while %s; %d traces are free", row.pk, target.slug, row.state, num_released)
    return True


@contextmanager
def _trainer_lock(target: Target) -> Iterator[bool]:
    """The advisory lock of one target, held by this connection; yields False when another trainer has it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [LOCK_CLASS, target.pk])
        is_mine = bool(cursor.fetchone()[0])
    try:
        yield is_mine
    finally:
        if is_mine and connection.connection is not None and not connection.connection.closed:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [LOCK_CLASS, target.pk])


def _is_locked(target: Target) -> bool:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [LOCK_CLASS, target.pk])
        return not cursor.fetchone()[0]


def reconcile(now: datetime) -> None:
    """Give up the dead slices of inactive targets too, and forget progress points older than the traces."""
    for row in TrainingSlice.objects.filter(state__in=OPEN).select_related("run__target"):
        _lose_if_dead(row, row.run.target)
    ProgressPoint.objects.filter(at__lt=now - timedelta(days=kept().trace_days)).delete()
