"""The loss over time, one report per bucket, against all reports in Python."""

import random
from datetime import UTC, datetime

import pytest

from aurora_web.training.history import MAX_POINTS, loss_points
from aurora_web.training.models import ProgressPoint, TrainingRun

pytestmark = pytest.mark.django_db
SINCE = 1_790_000_000.0


def report(run, at, step):
    return ProgressPoint(
        run=run,
        at=datetime.fromtimestamp(at, UTC),
        step=step,
        num_tokens=step * 100,
        loss=9.0 / (step + 1),
        tokens_per_second=50.0,
        phase="train",
    )


def runs_of(target):
    """An ended run, and the one that goes on."""
    return [TrainingRun.objects.create(target=target, is_active=is_active) for is_active in (False, True)]


def test_the_last_report_of_every_bucket_whatever_its_run(target):
    rng, runs, seconds = random.Random(3), runs_of(target), 40_000.0
    times = sorted({round(SINCE - 500 + rng.random() * (seconds + 1000), 3) for _ in range(3000)})
    ProgressPoint.objects.bulk_create(report(rng.choice(runs), at, step) for step, at in enumerate(times))
    found = loss_points(target, SINCE, SINCE + seconds)
    last = {}
    for step, at in enumerate(times):
        if SINCE <= at < SINCE + seconds:
            last[int((at - SINCE) / (seconds / MAX_POINTS))] = (step, at)
    assert [(p["step"], p["at"]) for p in found] == [
        (step, pytest.approx(at)) for _, (step, at) in sorted(last.items())
    ]
    assert 400 < len(found) <= MAX_POINTS
    assert found[0]["loss"] == 9.0 / (found[0]["step"] + 1)


def test_a_short_range_has_every_report(target):
    _, run = runs_of(target)
    ProgressPoint.objects.bulk_create(report(run, SINCE + i, i) for i in range(20))
    assert [p["step"] for p in loss_points(target, SINCE + 5, SINCE + 10)] == [5, 6, 7, 8, 9]
    assert loss_points(target, SINCE + 30, SINCE + 60) == []
