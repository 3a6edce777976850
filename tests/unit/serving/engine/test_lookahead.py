import itertools
import random

import pytest

from serving.engine.lookahead import (
    Acceptance,
    Chooser,
    StepCosts,
    choose,
    expected_tokens,
    fastest,
    fastest_together,
)

COSTS = [1.0, 1.2, 1.4, 1.6, 1.8]  # of lookahead 0..4, in units of a plain step


def chosen(chooser, domains, limits, costs):
    return choose([chooser.acceptance(domain) for domain in domains], limits, StepCosts(costs))


def feed(chooser, domain, rate, steps=200, lookahead=4):
    rng = random.Random(0)
    for _ in range(steps):
        correct = 0
        while correct < lookahead and rng.random() < rate:
            correct += 1
        chooser.acceptance(domain).observe(lookahead, correct)


def test_expected_tokens_is_a_sum_of_products():
    assert expected_tokens([0.5, 0.5], 2) == 1 + 0.5 + 0.25
    assert expected_tokens([0.5], 0) == 1


@pytest.mark.parametrize(("rate", "expected"), [(0.02, 0), (0.15, 0), (0.9, 4)])
def test_the_choice_follows_acceptance(rate, expected):
    chooser = Chooser(4)
    feed(chooser, "sql", rate)
    assert chosen(chooser, ["sql"], [4], COSTS) == [expected]


def test_the_best_lookahead_is_the_fastest_of_all():
    rates = [0.8, 0.6, 0.3, 0.1]
    speeds = [expected_tokens(rates, k) / COSTS[k] for k in range(5)]
    assert speeds[fastest(rates, COSTS)] == max(speeds)


def test_domains_do_not_share_their_fate():
    chooser = Chooser(4)
    feed(chooser, "good", 0.9)
    feed(chooser, "bad", 0.02)
    assert chosen(chooser, ["good"], [4], COSTS) == [4]
    assert chosen(chooser, ["bad"], [4], COSTS) == [0]
    together = [1.0 + 0.1 * num for num in range(9)]
    assert chosen(chooser, ["bad", "good"], [4, 4], together) == [0, 4]


def test_speculation_comes_back_when_first_drafts_would_have_passed():
    chooser = Chooser(4)
    feed(chooser, "sql", 0.02)
    assert chosen(chooser, ["sql"], [4], COSTS) == [0]
    chooser.acceptance("sql").watch([0.9] * 100)
    assert chosen(chooser, ["sql"], [4], COSTS) >= [2]  # of those behind the first nothing is known
    chooser.acceptance("sql").watch([0.0] * 200)
    assert chosen(chooser, ["sql"], [4], COSTS) == [0]


def test_it_is_counted_for_how_long_nobody_has_drafted_for_a_domain():
    chooser = Chooser(4)
    feed(chooser, "good", 0.9)
    feed(chooser, "bad", 0.0)
    costs = [1.0 + 0.1 * num for num in range(9)]
    for _ in range(7):
        assert chosen(chooser, ["good", "bad"], [4, 4], costs) == [4, 0]
    assert [chooser.acceptance(name).steps_off for name in ("good", "bad")] == [0, 7]


@pytest.mark.parametrize("draft", [{}, {"first": 0.1, "further": 0.15, "request": 0.04}, {"further": 0.3}])
def test_drafts_of_a_batch_are_chosen_together(draft):
    """Of all combinations of drafts up to the limits, the one with the most tokens per second: tried one by one."""
    rates, limits = [[0.9, 0.8, 0.7], [0.4, 0.4, 0.4], [0.6, 0.1, 0.1]], [3, 3, 2]
    costs = StepCosts([1.0, 1.2, 1.3, 1.4, 1.5, 1.7, 1.9, 2.1, 2.4], **draft)
    chosen = fastest_together(rates, limits, costs)

    def speed(lookaheads):
        tokens = sum(expected_tokens(rate, k) for rate, k in zip(rates, lookaheads, strict=True))
        return tokens / costs.seconds(sum(lookaheads), max(lookaheads), sum(k > 0 for k in lookaheads))

    every = itertools.product(*(range(limit + 1) for limit in limits))
    assert speed(chosen) == pytest.approx(max(map(speed, every)))
    assert fastest_together([], [], StepCosts([1.0])) == []


def test_a_pass_of_the_draft_that_few_take_part_in_is_not_worth_it():
    """Two more drafts of one request would pay if a pass cost nothing; one each for all is what pays."""
    rates, limits = [[0.9, 0.9, 0.9], [0.5, 0.1, 0.1], [0.5, 0.1, 0.1], [0.5, 0.1, 0.1]], [3] * 4
    verify = [1.0 + 0.01 * num for num in range(13)]
    assert fastest_together(rates, limits, StepCosts(verify)) == [3, 1, 1, 1]
    assert fastest_together(rates, limits, StepCosts(verify, first=0.1, further=0.25)) == [1, 1, 1, 1]


def test_beside_fixed_lookaheads_only_what_comes_on_top_counts():
    costs = StepCosts([1.0, 1.1, 1.2, 1.3, 1.4], first=0.2, further=0.1, request=0.05)
    beside = costs.beside([2, 0])
    assert beside.seconds(0, 0, 0) == pytest.approx(costs.seconds(2, 2, 1))
    assert beside.seconds(1, 1, 1) == pytest.approx(costs.seconds(3, 2, 2))
    assert beside.seconds(2, 3, 1) == pytest.approx(costs.seconds(4, 3, 2))


def test_drafts_behind_the_first_wrong_one_were_not_tried():
    acceptance = Acceptance(4)
    for _ in range(100):
        acceptance.observe(4, 1)
    rates = acceptance.rates()
    assert rates[0] > 0.95
    assert rates[1] < 0.05
    assert acceptance.tried[2] == 0


def test_requests_without_a_choice_make_drafts_of_one_less_worth_it():
    rates, costs = [[0.5, 0.5]], [1.0, 1.2, 1.35]
    assert fastest_together(rates, [2], StepCosts(costs)) == [2]
    assert fastest_together(rates, [2], StepCosts(costs), num_others=3) == [0]


def test_a_new_version_starts_from_what_the_one_before_it_was_like():
    before = Chooser(4)
    feed(before, "good", 0.9)
    feed(before, "bad", 0.0)
    after = Chooser(4, before)
    assert chosen(after, ["good"], [4], COSTS) == [4]
    assert chosen(after, ["bad"], [4], COSTS) == [0]
    assert after.acceptance("new").rates()[0] == 0.5
    for _ in range(25):
        after.acceptance("good").observe(4, 0)  # and soon from its own
        after.acceptance("bad").observe(4, 4)
    assert chosen(after, ["good"], [4], COSTS) == [0]
    assert chosen(after, ["bad"], [4], COSTS) == [4]
