"""The stepper of a target's page: where the next version is, with counts, estimates, and what is waited for."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.console import phases
from aurora_web.registry.models import Target
from aurora_web.rollouts.freeze import freeze
from aurora_web.rollouts.models import Deployment
from aurora_web.training.history import evaluation_seconds
from aurora_web.training.models import ProgressPoint, SliceState, TrainingRun, TrainingSlice
from tests.unit.aurora_web.rollouts.conftest import canary, judged, measured, report_in  # noqa: F401  # fixtures

pytestmark = pytest.mark.django_db


def text(answer):
    return " ".join(answer.content.decode().split())


FACTS = phases.Facts(
    num_alive=1, num_fresh=2, num_wanted=8, traces_per_second=0.5, step=40, slice_state="", slice_elapsed=0.0,
    slice_budget=8.0, phase="", is_paused=False, num_versions=3, canary=None, canary_elapsed=0.0, canary_seconds=300.0,
    canary_waits="", evaluation_left=None, has_canary=False, live=3, is_live_random=False, num_waiting=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "name", "said", "left"),
    [
        ({"num_alive": 0}, "connect", "no replica reports", None),
        ({}, "collect", "2 of 8 new traces", 12.0),
        ({"is_paused": True}, "collect", "training is paused", None),
        ({"slice_state": SliceState.RUNNING, "slice_elapsed": 3.0, "phase": "train"}, "train", "step 40", 5.0),
        ({"slice_state": SliceState.RUNNING, "slice_elapsed": 9.0, "phase": "train"}, "train", "step 40", None),
        ({"slice_state": SliceState.QUEUED, "step": 0}, "train", "a slice is queued", None),
        ({"slice_state": SliceState.QUEUED}, "train", "a slice is queued, step 40", None),
        ({"num_fresh": 8}, "collect", "8 or more new traces wait", None),
        ({"slice_state": SliceState.RUNNING, "phase": "evaluate"}, "evaluate", "3 versions judged so far", None),
        ({"canary": 4, "canary_elapsed": 60.0}, "canary", "v4, 1.0 of 5 minutes", 240.0),
        ({"num_waiting": 2}, "live", "2 wait for a person", None),
    ],
)
def test_the_stepper_has_one_current_step_with_counts_and_an_estimate(changes, name, said, left):
    found = phases.steps(replace(FACTS, **changes))
    assert [step.name for step in found] == list(phases.NAMES)
    (current,) = [step for step in found if step.is_current]
    assert (current.name, current.text, current.seconds_left) == (name, said, left)


EVALUATING = {"slice_state": SliceState.RUNNING, "phase": "evaluate"}
OVER = {"canary": 4, "canary_elapsed": 372.0}
LONGER = "any moment, by what the last ones took (estimate)"


@pytest.mark.parametrize(
    ("changes", "left", "note"),
    [
        (EVALUATING | {"evaluation_left": 3.5}, 3.5, ""),
        (EVALUATING | {"evaluation_left": -2.0}, None, LONGER),
        (EVALUATING, None, ""),  # the first one
        (OVER, None, "any moment"),
        (OVER | {"canary_waits": "it seems slower"}, None, "waits: it seems slower"),
        ({"canary": 4, "canary_elapsed": 60.0}, 240.0, ""),
        ({}, 12.0, ""),
    ],
)
def test_a_step_says_what_is_left_or_what_it_waits_for(changes, left, note):
    (current,) = [step for step in phases.steps(replace(FACTS, **changes)) if step.is_current]
    assert (current.seconds_left, current.note) == (left, note)


def stepper(clients):
    return text(clients["viewer"].get("/targets/demo/parts/?part=figures"))


def test_what_is_left_of_an_evaluation_is_what_the_last_ones_took(clients, target, judged, report_in):  # noqa: F811
    report_in("r1")
    run = TrainingRun.objects.create(target=target, phase="evaluate")
    now = timezone.now()

    def piece(trained_seconds_ago, took=None):
        began = now - timedelta(seconds=trained_seconds_ago + 10)
        at = now - timedelta(seconds=trained_seconds_ago)
        done = {} if took is None else {"finished_at": at + timedelta(seconds=took), "version": judged()}
        state = SliceState.RUNNING if took is None else SliceState.DONE
        TrainingSlice.objects.create(run=run, state=state, started_at=began, queued_at=began, **done)
        figures = {"step": 1, "num_tokens": 1, "loss": 1.0, "tokens_per_second": 1.0, "phase": "train"}
        for point in (began, at):
            ProgressPoint.objects.create(run=run, at=point, **figures)

    piece(0)
    assert "(estimate)" not in stepper(clients)
    for i, took in enumerate((300, 600, 7200)):
        piece(60_000 - 20_000 * i, took)
    assert evaluation_seconds(run) == [7200.0, 600.0, 300.0]
    [left] = re.findall(r"about ([\d.]+) min left \(estimate\)", stepper(clients))
    assert 5 < float(left) <= 10  # of the ten minutes that the one in the middle took


def test_a_canary_past_its_minutes_says_why_it_waits(clients, canary):  # noqa: F811
    assert "waits:" not in stepper(clients)
    Deployment.objects.update(canary_started_at=timezone.now() - timedelta(minutes=6))
    page = stepper(clients)
    assert "v3, 6." in page
    said = "waits: 0 requests on the canary and 0 on the others; the policy asks for 40 on either side"
    assert f'<span class="eta">{said}</span>' in page


def test_a_good_canary_of_a_frozen_target_waits_for_a_person(clients, canary, measured, target):  # noqa: F811
    measured(0.01, 0.01)
    Target.objects.update(canary_minutes=1.0)
    assert '<span class="eta">any moment</span>' in stepper(clients)
    freeze(target, "olga")
    assert "waits: the target is frozen, so a person promotes it" in stepper(clients)
