"""How often chance ends a canary that is equal, and how soon one that is slower is ended: canaries of a seed."""

import numpy as np
import pytest

from aurora_web.metrics.by_replica import ReplicaSums
from aurora_web.metrics.ratios import Moments
from aurora_web.rollouts.canary_verdict import CHANCE, Action, CanaryPolicy, judge

MINUTES = 5.0
LOOK_SECONDS = 15
LAST = 3 * MINUTES


def policy(tolerance=0.1):
    return CanaryPolicy(MINUTES, 50, tolerance, 0.0)


def sums(x, y):
    """The second moments of the first k requests, for every k."""
    return np.stack([np.concatenate([[0.0], np.cumsum(each)]) for each in (x, y, x * x, y * y, x * y)], 1)


def traffic(rng, domain, version, per_minute, slower):
    """(domain, version, times in seconds, sums of tokens/s, sums of accept length) until the last look."""
    n = rng.poisson(per_minute * LAST)
    tokens = rng.integers(40, 128, n).astype(float)
    seconds = tokens / 100 / (1 - slower) * np.exp(rng.normal(0, 0.4, n))
    steps = tokens / 2.5 * np.exp(rng.normal(0, 0.2, n))
    return domain, version, np.sort(rng.uniform(0, 60 * LAST, n)), sums(tokens, seconds), sums(tokens, steps)


def counted(part, now):
    domain, version, times, speed, accept = part
    n = int(np.searchsorted(times, now))
    moments = [Moments(n, *map(float, each[n])) for each in (speed, accept)]
    return ReplicaSums(f"r{version}", version, domain, 1, n, *moments)


def end(rng, num_domains, per_minute, tolerance=0.1, slower=0.0):
    """(what became of a canary, after how many minutes, why)"""
    domains = [f"d{i}" for i in range(num_domains)]
    canary = [traffic(rng, domain, 2, per_minute, slower) for domain in domains]
    others = [traffic(rng, domain, 1, per_minute, 0.0) for domain in domains]
    for now in range(LOOK_SECONDS, int(60 * LAST) + 1, LOOK_SECONDS):
        sides = [[counted(part, now) for part in side] for side in (canary, others)]
        found = judge(*sides, policy(tolerance), now)
        if found.action != Action.WAIT:
            return found.action, now / 60, found.reasons[0]
    return Action.WAIT, LAST, ""


@pytest.mark.parametrize(("num_domains", "per_minute", "tolerance"), [(6, 10, 0.05), (12, 20, 0.1), (1, 10, 0.05)])
def test_an_equal_canary_is_rolled_back_by_chance_in_one_of_twenty_at_most(num_domains, per_minute, tolerance):
    rng = np.random.default_rng(5)
    ends = [end(rng, num_domains, per_minute, tolerance)[0] for _ in range(60)]
    assert ends.count(Action.ROLL_BACK) <= CHANCE * 60
    assert ends.count(Action.PROMOTE) >= 0.9 * 60  # none is left undecided for it


@pytest.mark.parametrize(("num_domains", "per_minute"), [(1, 40), (6, 10), (12, 10)])
def test_one_that_is_three_tenths_slower_is_ended_within_its_minutes(num_domains, per_minute):
    rng = np.random.default_rng(7)
    ends = [end(rng, num_domains, per_minute, slower=0.3) for _ in range(10)]
    assert {action for action, _, _ in ends} == {Action.ROLL_BACK}
    assert max(minutes for _, minutes, _ in ends) <= MINUTES
    assert "worse than the tolerance of 10\u00a0%" in ends[0][2]


def side(version, ratio, n=100, spread=0.4, domain="sql"):
    """Requests that take 1 / ``ratio`` seconds on average, half of them slower, half of them faster."""
    x = np.full(n, 100.0)
    y = np.where(np.arange(n) % 2, 1 - spread, 1 + spread) / ratio
    moments = Moments(n, x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum())
    same = Moments(n, 2.0 * n, float(n), 4.0 * n, float(n), 2.0 * n)
    return ReplicaSums(f"r{version}", version, domain, 1, n, moments, same)


def test_what_only_seems_worse_waits_and_the_last_look_decides():
    canary, others = [side(2, 0.74, n=50)], [side(1, 1.0, n=50)]
    found = judge(canary, others, policy(), 60 * MINUTES)
    assert found.domains[0].speed.high < 0.9 < found.domains[0].speed_at_most
    assert (found.domains[0].seems_worse, found.domains[0].is_worse) == (True, False)
    assert found.action == Action.WAIT
    assert found.reasons[0] == "It seems slower."
    assert found.reasons[1].startswith("sql seems worse than the tolerance of 10\u00a0%: Tokens/s 74 on the canary, ")
    last = judge(canary, others, policy(), 60 * LAST)
    assert (last.action, last.reasons[0]) == (Action.ROLL_BACK, "It is slower.")  # by the 95 % interval that is shown


def test_after_the_last_look_no_canary_waits_for_certainty():
    canary, others = [side(2, 0.95, n=60)], [side(1, 1.0, n=60)]
    found = judge(canary, others, policy(), 60 * MINUTES)
    assert (found.action, found.reasons[0]) == (Action.WAIT, "The interval is still too wide to decide.")
    last = judge(canary, others, policy(), 60 * LAST)
    assert (last.action, last.reasons[0]) == (Action.PROMOTE, "After 15 minutes no loss is certain.")


@pytest.mark.parametrize(("minutes", "num_looks"), [(4.9, 15), (14.9, 15), (15.0, 1), (99.0, 1)])
def test_a_comparison_has_its_share_of_the_chance(minutes, num_looks):
    names = ("sql", "prose", "code")
    rare = side(2, 1.0, n=19, domain="rare")  # too few to be judged
    canary = [*(side(2, 1.0, domain=name) for name in names), rare]
    others = [*(side(1, 1.0, domain=name) for name in names), rare]
    found = judge(canary, others, policy(), 60 * minutes)
    assert found.one_in == 4 / CHANCE * 2 * (3 + 1) * num_looks


def test_sides_that_share_no_domain_wait_for_the_last_look_only():
    canary, others = [side(2, 1.0, domain="sql")], [side(1, 1.0, domain="prose")]
    found = judge(canary, others, policy(), 60 * MINUTES)
    assert (found.action, "cannot be compared yet" in found.reasons[0]) == (Action.WAIT, True)
    last = judge(canary, others, policy(), 60 * LAST)
    assert (last.action, last.reasons[0]) == (Action.PROMOTE, "After 15 minutes no loss is certain.")
    assert last.reasons[1].startswith("The speeds cannot be compared: ")


def test_too_few_requests_are_waited_for_a_month_at_most():
    canary, others = [side(2, 1.0, n=49)], [side(1, 1.0)]
    for days, action in ((1, Action.WAIT), (29.9, Action.WAIT), (30, Action.ROLL_BACK)):
        found = judge(canary, others, policy(), days * 86400)
        assert (found.action, "49 requests on the canary and 100 on the others" in found.reasons[0]) == (action, True)
