import random

import pytest

from serving.engine.lookahead import PROBE_EVERY, Acceptance, Chooser, expected_tokens, fastest

COSTS = [1.0, 1.2, 1.4, 1.6, 1.8]  # of lookahead 0..4, in units of a plain step


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
    assert chooser.choose("sql", COSTS) == expected


def test_the_best_lookahead_is_the_fastest_of_all():
    rates = [0.8, 0.6, 0.3, 0.1]
    speeds = [expected_tokens(rates, k) / COSTS[k] for k in range(5)]
    assert speeds[fastest(rates, COSTS)] == max(speeds)


def test_domains_do_not_share_their_fate():
    chooser = Chooser(4)
    feed(chooser, "good", 0.9)
    feed(chooser, "bad", 0.02)
    assert chooser.choose("good", COSTS) == 4
    assert chooser.choose("bad", COSTS) == 0


def test_speculation_is_probed_while_off_and_comes_back_by_itself():
    chooser = Chooser(4)
    feed(chooser, "sql", 0.02)
    probes = 0
    for _ in range(PROBE_EVERY * 4):
        lookahead = chooser.choose("sql", COSTS)
        probes += lookahead > 0
        chooser.acceptance("sql").observe(lookahead, 0)
    assert 3 <= probes <= 4  # a few per cent of the steps
    for _ in range(3000):
        lookahead = chooser.choose("sql", COSTS)
        chooser.acceptance("sql").observe(lookahead, lookahead)  # the draft has become right
    assert chooser.choose("sql", COSTS) == 4


def test_drafts_behind_the_first_wrong_one_were_not_tried():
    acceptance = Acceptance(4)
    for _ in range(100):
        acceptance.observe(4, 1)
    rates = acceptance.rates()
    assert rates[0] > 0.95
    assert rates[1] < 0.05
    assert acceptance.tried[2] == 0
