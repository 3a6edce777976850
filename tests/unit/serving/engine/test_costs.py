"""What steps cost: measured on a budget at start, then learnt from the steps themselves."""

import pytest
import torch

from serving.draft_runner import DraftRunner
from serving.engine.costs import Costs, buckets, measure
from serving.engine.lookahead import fastest
from serving.model.decoder import Decoder
from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft


def test_larger_batches_pay_less():
    costs = Costs({1: {0: 1.0, 4: 1.8}, 4: {0: 1.0, 4: 4.6}})
    rates = [0.7] * 4
    assert fastest(rates, costs.by_lookahead(1, 4)) >= 3
    assert fastest(rates, costs.by_lookahead(3, 4)) == 0  # priced as a batch of four
    assert costs.by_lookahead(4, 2)[1] == pytest.approx(1.9)
    assert costs.by_lookahead(1, 8)[8] == pytest.approx(1.8 * 9 / 5)  # beyond what was measured


def test_buckets_end_at_the_largest_batch():
    assert buckets(1) == [1]
    assert buckets(6) == [1, 2, 4, 6]


def ratios(costs, batch_size=1):
    found = costs.by_lookahead(batch_size, 4)
    return [each / found[0] for each in found]


def test_a_slower_machine_changes_no_choice():
    """Three times slower in everything: the ratios stay."""
    costs = Costs({1: {0: 1.0, 4: 2.0}})
    for seconds in (2.0, 6.0):
        for _ in range(300):
            costs.observe([4], seconds)
            costs.observe([0], seconds / 2)
        assert costs.by_lookahead(1, 4)[4] == pytest.approx(seconds, rel=0.02)
        assert ratios(costs)[4] == pytest.approx(2.0, rel=0.02)


def test_a_ratio_that_was_measured_wrongly_is_put_right_at_work():
    """A busy moment at start made speculation look dear; a few hundred steps of each kind say what it costs."""
    costs = Costs({1: {0: 1.0, 4: 4.0}, 4: {0: 1.0, 4: 4.0}})
    for _ in range(600):
        costs.observe([0], 1.0)
        costs.observe([4], 1.6)
    assert ratios(costs)[4] == pytest.approx(1.6, rel=0.25)
    assert ratios(costs)[3] < 2.2, "its neighbours are believed to be cheaper too"
    assert ratios(costs, 4)[4] == pytest.approx(4.0), "another batch size has not been seen"


def test_where_only_one_lookahead_is_seen_the_ratios_stay_near_the_measured_ones():
    """Nothing tells a slow machine from a dear lookahead then: what was measured at start is believed in the end."""
    costs = Costs({1: {0: 1.0, 4: 2.0}})
    costs.observe([4], 50.0)  # the first step of all takes long
    for _ in range(3000):
        costs.observe([4], 2.0)
    assert ratios(costs)[4] == pytest.approx(2.0, rel=0.02)


def test_steps_that_something_else_holds_up_bend_no_ratio():
    """A neighbour that takes the processor away in one step of three, whatever its lookahead."""
    costs = Costs({1: {0: 1.0, 4: 2.0}})
    for i in range(3000):
        costs.observe([0], 40.0 if i % 3 == 0 else 1.0)
        if i % 10 == 0:
            costs.observe([4], 80.0 if i % 30 == 0 else 2.0)
    assert ratios(costs)[4] == pytest.approx(2.0, rel=0.2)


def test_requests_with_different_lookaheads_tell_what_so_many_drafts_cost():
    """Two requests, speculation twice as dear as measured at start, seen in plain and in mixed steps alone."""
    costs = Costs({1: {0: 1.0, 4: 1.5}, 2: {0: 1.0, 4: 1.5}})
    for _ in range(600):
        costs.observe([0, 0], 1.0)
        costs.observe([0, 4], 2.0)  # measured: 1.25
    assert ratios(costs, 2)[2] == pytest.approx(2.0, rel=0.2)
    assert costs.by_drafts(2, 4)[4] == pytest.approx(2.0, rel=0.2)


def test_a_single_draft_of_a_batch_costs_more_than_its_share():
    """The draft's weights are read whoever drafts; more drafts than that cost what lies between equal lookaheads."""
    costs = Costs({1: {0: 1.0, 4: 2.0}, 4: {0: 1.0, 1: 1.4, 2: 1.6, 4: 2.0}})
    found = costs.by_drafts(4, 8)
    assert found == pytest.approx([1.0, 1.25, 1.3, 1.35, 1.4, 1.45, 1.5, 1.55, 1.6])
    assert costs.by_drafts(1, 4) == pytest.approx([1.0, 1.25, 1.5, 1.75, 2.0])


@pytest.mark.parametrize(("budget_seconds", "num_lookaheads"), [(0.0, 2), (3600.0, 7)])
def test_without_time_the_corners_are_measured_and_the_rest_lies_between(
    tiny, tiny_config, budget_seconds, num_lookaheads
):
    draft_config = DraftConfig.for_target(tiny_config)
    decoder = Decoder(tiny[0], draft_config.aux_layer_ids, 4, 64)
    with torch.inference_mode():
        draft = DraftRunner(draft_config, Eagle3Draft(draft_config).state_dict(), decoder.embed_VH, 4, 64)
        costs = measure(decoder, draft, 4, budget_seconds)
    assert sorted(costs.step) == [1, 2, 4]
    assert {len(known) for known in costs.step.values()} == {num_lookaheads}
    if budget_seconds == 0:
        between = (costs.step[1][4] + (costs.step[4][4] - costs.step[1][4]) / 3, costs.step[2][4])
        assert between[0] == pytest.approx(between[1])
    assert min(costs.by_lookahead(2, 8)) > 0
