"""What a pass is made of."""

import random
from collections import Counter
from dataclasses import dataclass

import pytest

from training_worker.passes import KEPT_PER_GONE, REPLAY_PER_PASS, one_pass, with_few


@dataclass(frozen=True)
class Old:
    """An example by its domain and number."""

    domain: str
    number: int


def old_ones(domain, num):
    return [Old(domain, i) for i in range(num)]


def test_a_pass_holds_all_that_is_fresh_and_a_new_sample_of_the_old():
    old = old_ones("sql", 300)
    fresh = [Old("sql", 1000 + i) for i in range(20)]
    first, second = (one_pass(fresh, old, random.Random(seed)) for seed in (0, 1))
    assert set(fresh) <= set(first) & set(second)
    assert len(first) == len(second) == 20 + 4 * 20
    assert set(first) != set(second)
    assert len(one_pass(fresh[:2], old, random.Random(0))) == 2 + 48
    by_number = sorted(one_pass(fresh, old[:5], random.Random(0)), key=lambda example: example.number)
    assert by_number == [*old[:5], *fresh]


def test_what_is_not_asked_for_now_is_half_of_a_pass_at_most():
    former = old_ones("sql", 100) + old_ones("arithmetic", 100)
    fresh = old_ones("prose", 14)
    first = one_pass(fresh, former, random.Random(0))
    assert set(fresh) <= set(first) and len(first) == 28
    later = one_pass(fresh, former + [Old("prose", 100 + i) for i in range(20)], random.Random(0))
    assert len([e for e in later if e.domain == "prose"]) * 2 == len(later)
    mixed = one_pass(fresh + old_ones("sql", 14), former, random.Random(0))
    counted = Counter(e.domain for e in mixed)
    assert counted["arithmetic"] <= counted["sql"] + counted["prose"] and counted["arithmetic"] > 40  # as it comes


def test_without_fresh_traces_a_pass_is_of_old_ones():
    assert len(one_pass([], old_ones("sql", 100), random.Random(0))) == 48


@pytest.mark.parametrize(("num_kept", "num_gone"), [(160, 10), (256, 16), (40, 8), (0, 48), (48, 3)])
def test_of_those_whose_states_are_gone_few_are_recomputed_unless_there_are_no_others(num_kept, num_gone):
    kept, gone = old_ones("sql", num_kept), old_ones("chat", 100)
    drawn, again = (with_few(kept, gone, random.Random(seed)) for seed in (0, 1))
    assert drawn[:num_kept] == kept
    assert len(set(drawn[num_kept:])) == num_gone and set(drawn[num_kept:]) <= set(gone)
    assert set(drawn) != set(again)
    assert len(with_few(kept, gone[:2], random.Random(0))) == num_kept + 2
    assert num_gone == max(num_kept // KEPT_PER_GONE, REPLAY_PER_PASS - num_kept)
