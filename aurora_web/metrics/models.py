"""Counts as the replicas sent them, and their sums per ten-second window; ratios are divided only for display."""

from __future__ import annotations

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.utils import timezone

from aurora_web.registry.models import Target

WINDOW_SECONDS = 10
HOUR = 3600
ROLL_UP_WIDTHS = (300, HOUR)  # seconds; each divides the next


# Each table has an index that begins with its target: one of the target alone would cost writes and mislead plans.
class Counts(models.Model):
    """The columns that add up. x = tokens after the first, y = decode seconds, of one request."""

    domain = models.CharField(max_length=100)
    version = models.IntegerField()  # 0 = control; NO_DRAFT
    lookahead = models.IntegerField()
    batch_bucket = models.IntegerField()
    num_requests = models.BigIntegerField()
    num_verify_steps = models.BigIntegerField()
    num_plain_steps = models.BigIntegerField(db_default=0)  # of them, those that had no draft to verify
    num_proposed_drafts = models.BigIntegerField()
    num_correct_drafts = models.BigIntegerField()
    num_accept_tokens = models.BigIntegerField()
    decode_seconds = models.FloatField()
    sum_xx = models.FloatField()
    sum_yy = models.FloatField()
    sum_xy = models.FloatField()

    class Meta:
        abstract = True


class CountRow(Counts):
    """One CountWindow as received; rows without ``rolled_up_at`` are the queue of the roll-up."""

    id = models.UUIDField(primary_key=True)
    target = models.ForeignKey(Target, on_delete=models.CASCADE, db_index=False, related_name="count_rows")
    replica = models.CharField(max_length=200)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField()
    received_at = models.DateTimeField(default=timezone.now)
    rolled_up_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["received_at"], condition=models.Q(rolled_up_at=None), name="count_row_not_rolled_up"),
            models.Index(fields=["rolled_up_at"], name="count_row_rolled_up_at"),
            models.Index(fields=["target", "started_at"], name="count_row_target_started"),
        ]


class MetricWindow(Counts):
    """Sums over one ten-second window of one target, domain, version, lookahead and batch bucket."""

    target = models.ForeignKey(Target, on_delete=models.CASCADE, db_index=False, related_name="windows")
    started_at = models.DateTimeField()  # multiple of WINDOW_SECONDS

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["target", "started_at", "domain", "version", "lookahead", "batch_bucket"],
                name="one_metric_window",
            )
        ]
        indexes = [
            models.Index(fields=["target", "version", "started_at"], name="metric_window_version"),
            BrinIndex(fields=["started_at"], name="metric_window_time"),  # what is too old, without reading everything
        ]


class MetricRollUp(Counts):
    """Sums of the windows of ``width`` seconds (one of ROLL_UP_WIDTHS); metrics/rollups.py says when they hold."""

    target = models.ForeignKey(Target, on_delete=models.CASCADE, db_index=False, related_name="roll_ups")
    width = models.PositiveSmallIntegerField()
    started_at = models.DateTimeField()  # multiple of width
    # Over the windows with drafts; x = tokens, y = steps of one window, of the steps that had drafts to verify
    num_windows = models.BigIntegerField()
    tokens_squared = models.FloatField()
    steps_squared = models.FloatField()
    tokens_steps = models.FloatField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["target", "width", "started_at", "domain", "version", "lookahead", "batch_bucket"],
                name="one_metric_roll_up",
            )
        ]
        indexes = [models.Index(fields=["target", "version", "width", "started_at"], name="metric_roll_up_version")]


class RollUpHour(models.Model):
    """Whether the roll-ups of one target and hour say what its windows say; no row = nobody has summed them."""

    target = models.ForeignKey(Target, on_delete=models.CASCADE, db_index=False, related_name="roll_up_hours")
    started_at = models.DateTimeField()  # multiple of HOUR
    is_fresh = models.BooleanField(default=False)
    revision = models.IntegerField(db_default=0)  # how often it was summed

    class Meta:
        constraints = [models.UniqueConstraint(fields=["target", "started_at"], name="one_roll_up_hour")]
        indexes = [
            models.Index(fields=["-started_at"], condition=models.Q(is_fresh=False), name="roll_up_hour_waiting")
        ]


class TokenTotal(models.Model):
    """Tokens of one target and domain since counting began; windows that are deleted stay counted."""

    target = models.ForeignKey(Target, on_delete=models.CASCADE, db_index=False, related_name="token_totals")
    domain = models.CharField(max_length=100)
    num_accept_tokens = models.BigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["target", "domain"], name="one_token_total")]


class CaptureWindow(models.Model):
    """Traces that the replicas of one target kept and dropped in one ten-second window."""

    target = models.ForeignKey(Target, on_delete=models.CASCADE, db_index=False, related_name="capture_windows")
    started_at = models.DateTimeField()  # multiple of WINDOW_SECONDS
    num_traces = models.BigIntegerField()
    num_dropped = models.BigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["target", "started_at"], name="one_capture_window")]


class CaptureHour(models.Model):
    """The sum of an hour's capture windows; counts are only ever added, so both are added to at once."""

    target = models.ForeignKey(Target, on_delete=models.CASCADE, db_index=False, related_name="capture_hours")
    started_at = models.DateTimeField()  # multiple of HOUR
    num_traces = models.BigIntegerField()
    num_dropped = models.BigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["target", "started_at"], name="one_capture_hour")]
