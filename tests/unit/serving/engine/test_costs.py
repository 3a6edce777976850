"""What steps cost: parts measured on a budget at start, then put right by the steps themselves."""

import random

import pytest
import torch

from serving.draft_runner import DraftRunner
from serving.engine.costs import LARGEST_SURPRISE, Costs, Parts, measure
from serving.model.decoder import Decoder
from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft

PARTS = Parts(verify={1: 1.0, 4: 1.0, 8: 1.4}, first={1: 0.1, 8: 0.17}, further={1: 0.05, 8: 0.12}, position=0.01)


def true_seconds(batch_size, num_drafts, deepest, num_taken_in, *, speed=1.0, draft=1.0, rows=0.05):
    """Of a machine on which a row costs the same everywhere."""
    first, further = 0.1 + 0.01 * (batch_size - 1), 0.05 + 0.01 * (batch_size - 1)
    passes = first + further * (deepest - 1) + 0.01 * num_taken_in if deepest else 0.0
    return speed * (1.0 + rows * num_drafts + draft * passes)


def at_work(costs, num_steps, *, lookaheads=(0, 1, 2, 4), batch_size=4, held_up=0.0, **truth):
    """Steps as an engine makes them, a share of them held up by something else."""
    rng = random.Random(0)
    for _ in range(num_steps):
        deepest = rng.choice(lookaheads)
        step = (batch_size, batch_size * deepest, deepest, rng.choice((4, 6, 8)) if deepest else 0)
        seconds = true_seconds(*step, **truth) * rng.gauss(1.0, 0.03)
        costs.observe(*step, seconds * (20.0 if rng.random() < held_up else 1.0))


def ratios(costs, lookahead=4):
    found = costs.of_late(lookahead)
    return [seconds / found[0] for seconds in found]


def true_ratios(**truth):
    plain = true_seconds(4, 0, 0, 0, **truth)
    return [true_seconds(4, 4 * k, k, 6 if k else 0, **truth) / plain for k in range(5)]


def test_a_step_is_its_rows_its_passes_and_what_it_takes_in():
    costs = Costs(PARTS).of_batch(4, 8)
    assert costs.seconds(0, 0, 0) == 1.0
    assert costs.verify[4] == pytest.approx(1.4)
    assert costs.verify[2] == pytest.approx(1.2)  # between measured places a straight line
    assert costs.verify[8] == pytest.approx(1.8)  # and beyond them the last one goes on
    first, further = 0.1 + 0.07 * 3 / 7, 0.05 + 0.07 * 3 / 7
    assert costs.seconds(2, 2, 1) == pytest.approx(1.2 + first + further + 0.015)


def test_the_batch_size_of_late_is_that_of_the_last_hundred_steps():
    costs = Costs(PARTS)
    assert costs.of_late(0) == (1.0,)
    for _ in range(500):
        costs.observe(8, 0, 0, 0, 1.4)
    assert costs.of_late(0) == pytest.approx((1.4,), rel=0.01)


def test_a_slower_machine_changes_no_ratio():
    costs = Costs(PARTS)
    at_work(costs, 1000)
    before = ratios(costs)
    at_work(costs, 300, speed=3.0)
    assert costs.of_late(0)[0] == pytest.approx(3.0, rel=0.1)
    assert ratios(costs) == pytest.approx(before, rel=0.1)


@pytest.mark.parametrize("truth", [{"draft": 3.0}, {"rows": 0.0}, {"rows": 0.15, "draft": 0.5}])
def test_what_was_measured_wrongly_is_put_right_at_work(truth):
    costs = Costs(PARTS)
    at_work(costs, 1500, **truth)
    assert ratios(costs) == pytest.approx(true_ratios(**truth), rel=0.08)


def test_what_a_draft_takes_in_after_a_pause_is_not_taken_for_the_cost_of_drafting():
    costs = Costs(PARTS)
    for _ in range(300):
        for _ in range(4):
            costs.observe(4, 0, 0, 0, true_seconds(4, 0, 0, 0))
        costs.observe(4, 4, 1, 60, true_seconds(4, 4, 1, 60, rows=0.1))  # 0.6 more than beside steps that draft
    assert ratios(costs)[1] == pytest.approx(true_ratios(rows=0.1)[1], rel=0.08)


def test_where_only_one_lookahead_is_seen_the_ratios_stay_near_the_measured_ones():
    """Nothing tells a slow machine from a dear lookahead then: what was measured at start is believed."""
    costs = Costs(PARTS)
    costs.observe(4, 16, 4, 6, 50.0)  # the first step of all takes long
    at_work(costs, 3000, lookaheads=(4,))
    assert ratios(costs) == pytest.approx(true_ratios(), rel=0.3)


def test_steps_that_something_else_holds_up_bend_no_ratio():
    costs = Costs(PARTS)
    at_work(costs, 3000, held_up=0.05)
    assert ratios(costs) == pytest.approx(true_ratios(), rel=0.1)
    before = costs.of_late(0)[0]
    costs.observe(4, 0, 0, 0, 1e6)
    assert costs.of_late(0)[0] <= before * (1 + LARGEST_SURPRISE)


@pytest.mark.parametrize(("budget_seconds", "places"), [(0.0, [1, 16, 20]), (3600.0, [1, 2, 4, 8, 12, 16, 20])])
def test_without_time_the_ends_are_measured_and_the_rest_lies_between(tiny, tiny_config, budget_seconds, places):
    draft_config = DraftConfig.for_target(tiny_config)
    decoder = Decoder(tiny[0], draft_config.aux_layer_ids, 4, 64)
    with torch.inference_mode():
        draft = DraftRunner(draft_config, Eagle3Draft(draft_config).state_dict(), decoder.embed_VH, 4, 64)
        costs = measure(decoder, draft, 4, budget_seconds)
    assert list(costs.parts.verify) == places
    assert list(costs.parts.verify.values()) == sorted(costs.parts.verify.values())
    assert min(costs.of_batch(2, 12).verify) > 0
    assert list(costs.parts.first) == list(costs.parts.further) == [1, 4]
    assert min(*costs.parts.first.values(), *costs.parts.further.values()) > 0
