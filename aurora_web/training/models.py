"""Training runs (one lineage of optimiser steps), their bounded slices, and the loss over time."""

from __future__ import annotations

import uuid

from django.db import models
from django.utils import timezone

from aurora_web.registry.models import SpeculatorVersion, Target


class TrainingRun(models.Model):
    """One lineage of optimiser steps of one target, from random weights on; continued slice by slice."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    target = models.ForeignKey(Target, on_delete=models.CASCADE, related_name="training_runs")
    seed = models.IntegerField(default=0)
    is_active = models.BooleanField(default=True)
    started_at = models.DateTimeField(default=timezone.now)
    # From the last TrainProgress
    step = models.PositiveIntegerField(default=0)
    num_tokens = models.BigIntegerField(default=0)
    loss = models.FloatField(null=True)
    tokens_per_second = models.FloatField(default=0.0)
    phase = models.CharField(max_length=16, blank=True)
    reported_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["target"], condition=models.Q(is_active=True), name="one_active_run_per_target"
            )
        ]


class TrainingPause(models.Model):
    """A person paused the training of a target; no row = it runs."""

    target = models.OneToOneField(Target, on_delete=models.CASCADE, related_name="training_pause")
    actor = models.CharField(max_length=150)
    reason = models.TextField(blank=True)
    at = models.DateTimeField(default=timezone.now)


class SliceState(models.TextChoices):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"  # its worker died or never took it; its leases are void


class TrainingSlice(models.Model):
    """One bounded piece of work on the gpu queue; its id is the lease on the traces that it trains on."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="slices")
    state = models.CharField(max_length=16, choices=SliceState.choices, default=SliceState.QUEUED)
    is_day_zero = models.BooleanField(default=False)
    requested_by = models.CharField(max_length=150, blank=True)  # who said "train now"; "" = nobody: it was due
    num_fresh = models.PositiveIntegerField(default=0)
    num_replay = models.PositiveIntegerField(default=0)
    num_held_out = models.PositiveIntegerField(default=0)
    num_missing = models.PositiveIntegerField(default=0)
    queued_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    error = models.TextField(blank=True)
    version = models.ForeignKey(SpeculatorVersion, null=True, on_delete=models.SET_NULL, related_name="slices")

    class Meta:
        ordering = ["-queued_at"]
        constraints = [
            # The claim: two beats, or two workers, cannot both start a slice of one run.
            models.UniqueConstraint(
                fields=["run"], condition=models.Q(state__in=["queued", "running"]), name="one_open_slice_per_run"
            )
        ]


class ProgressPoint(models.Model):
    """One TrainProgress; the points of the loss chart."""

    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="points")
    at = models.DateTimeField()
    step = models.PositiveIntegerField()
    num_tokens = models.BigIntegerField()
    loss = models.FloatField()
    tokens_per_second = models.FloatField()
    phase = models.CharField(max_length=16)

    class Meta:
        ordering = ["at"]
        indexes = [models.Index(fields=["run", "at"], name="progress_run_at")]
