"""Bands of all buckets at once, against the ratios of one bucket at a time."""

import random

import pytest

from aurora_web.metrics.bands import trailing_speedups
from aurora_web.metrics.ratios import NOTHING, Moments, ratio_of_ratios, stratified


def drawn(rng):
    """Sums of a few requests, now and then too few or without any tokens or time."""
    tokens = [rng.uniform(20, 60) if rng.random() < 0.9 else 0.0 for _ in range(rng.randrange(1, 9))]
    seconds = [x * rng.uniform(0.01, 0.02) for x in tokens]
    return (
        len(tokens), sum(tokens), sum(seconds), sum(x * x for x in tokens), sum(y * y for y in seconds),
        sum(x * y for x, y in zip(tokens, seconds, strict=True)),
    )  # fmt: skip


def rows_of(rng, first, last):
    """With holes, and strata that come and go."""
    keys = [(i, name, size, side) for i in range(first, last) for name in "ab" for size in (1, 2) for side in (0, 1)]
    return [(*key, *drawn(rng)) for key in keys if rng.random() < (0.2 if key[3] else 0.5) and key[0] % 11]


def expected(rows, until, back):
    strata = {}
    for i, name, size, is_control, *sums in rows:
        if until - back < i <= until:
            sides = strata.setdefault((name, size), [NOTHING, NOTHING])
            sides[is_control] = sides[is_control] + Moments(*sums)
    compared = [
        (ratio_of_ratios(ours, control, a_name="speculative", b_name="control", b_unit="blocks"), ours.sum_x)
        for ours, control in strata.values()
    ]
    return stratified(sorted(compared, key=lambda pair: -pair[1])) if strata else None


@pytest.mark.parametrize("back", [1, 2, 5, 30])
@pytest.mark.parametrize("seed", range(3))
def test_every_bucket_says_what_its_own_sums_say(seed, back):
    rng = random.Random(seed)
    rows = rows_of(rng, 103 - back + 1, 200)
    found = trailing_speedups(rows, 103, 97, back)
    wanted = [expected(rows, i, back) for i in range(103, 200)]
    assert [interval is None for interval in found] == [interval is None for interval in wanted]
    known = 0
    for ours, theirs in zip(found, wanted, strict=True):
        if theirs is None:
            continue
        assert (ours.reason, ours.value is None) == (theirs.reason, theirs.value is None)
        if theirs.value is not None:
            known += 1
            assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high), rel=1e-9)
    assert known or back == 1


def test_rows_of_one_key_are_added_up():
    rows = rows_of(random.Random(4), 100, 130)
    halves = [(*row[:4], *(value / 2 for value in row[4:])) for row in rows]
    whole, added = trailing_speedups(rows, 100, 30, 5), trailing_speedups([*halves, *halves], 100, 30, 5)
    assert [i and i.value for i in added] == [
        i and pytest.approx(i.value) if i and i.value else i and i.value for i in whole
    ]
    assert any(interval and interval.value for interval in added)


def test_the_order_of_rows_changes_nothing():
    """Not even the reason, where two strata say as little."""
    rows = [(0, "a", 1, False, 2, 0.0, 1.0, 0.0, 1.0, 0.0), (0, "b", 1, False, 3, 0.0, 1.0, 0.0, 1.0, 0.0)]
    rows += rows_of(random.Random(5), 1, 40)
    assert trailing_speedups(rows, 0, 40, 1) == trailing_speedups(rows[::-1], 0, 40, 1)


def test_nothing_measured_is_no_bucket():
    assert trailing_speedups([], 5, 3, 2) == [None, None, None]
