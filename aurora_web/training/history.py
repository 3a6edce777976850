"""The loss over time, for charts of any range; and how long evaluations took."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import OuterRef, Subquery

from aurora_web.registry.models import Target
from aurora_web.training.models import ProgressPoint, SliceState, TrainingRun, TrainingSlice

# The last report of every bucket: a loss is a level, not a count that could be summed. One look into the index per
# bucket and run, instead of reading every report of a month.
_LOSS = """
SELECT date_part('epoch', last.at), last.step, last.loss, last.tokens_per_second
FROM generate_series(0, %(num)s - 1) AS i
CROSS JOIN LATERAL (
    SELECT of_run.* FROM training_trainingrun r
    CROSS JOIN LATERAL (
        SELECT p.at, p.step, p.loss, p.tokens_per_second FROM training_progresspoint p
        WHERE p.run_id = r.id AND p.at >= to_timestamp(%(since)s::float8 + i * %(bucket)s::float8)
            AND p.at < to_timestamp(least(%(until)s::float8, %(since)s::float8 + (i + 1) * %(bucket)s::float8))
        ORDER BY p.at DESC LIMIT 1
    ) of_run
    WHERE r.target_id = %(target)s ORDER BY of_run.at DESC LIMIT 1
) last
ORDER BY i
"""
MAX_POINTS = 500
LATEST_EVALUATIONS = 5


def loss_points(target: Target, since: float, until: float) -> list[dict[str, Any]]:
    """``[{"at", "step", "loss", "tokens_per_second"}]``, oldest first, at most MAX_POINTS."""
    bucket = max(0.25, (until - since) / MAX_POINTS)
    num = min(MAX_POINTS, math.ceil((until - since) / bucket))
    asked = {"target": target.pk, "since": since, "until": until, "bucket": bucket, "num": num}
    with connection.cursor() as cursor:
        cursor.execute(_LOSS, asked)
        return [
            {"at": at, "step": step, "loss": loss, "tokens_per_second": speed}
            for at, step, loss, speed in cursor.fetchall()
        ]


def evaluation_seconds(run: TrainingRun) -> list[float]:
    """From the last report of an optimiser step to the end, of the latest slices of a run that made a version."""
    reports = ProgressPoint.objects.filter(
        run=run, at__gte=OuterRef("started_at"), at__lte=OuterRef("finished_at")
    ).order_by("-at")
    done = run.slices.filter(state=SliceState.DONE, version__isnull=False, finished_at__isnull=False)
    rows = done.order_by("-finished_at")[:LATEST_EVALUATIONS].annotate(trained_until=Subquery(reports.values("at")[:1]))
    return [
        (row.finished_at - row.trained_until).total_seconds() for row in rows if row.finished_at and row.trained_until
    ]


def trained_until(piece: TrainingSlice) -> datetime | None:
    """When a slice last reported an optimiser step; None = it has not."""
    reports = ProgressPoint.objects.filter(run=piece.run_id, at__gte=piece.started_at or piece.queued_at)
    return reports.order_by("-at").values_list("at", flat=True).first()
