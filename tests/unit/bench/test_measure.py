"""The arithmetic behind the benchmark's figures."""

from statistics import mean

import pytest

from serving.pocket.report import distinct_3gram_share
from tests.bench.measure import Served, accept_length, interval, reached, speedup, windows


def served(at: float, rate: float, *, is_control: bool, tokens: int = 30, steps: int = 10) -> Served:
    return Served(at, "sql", 0 if is_control else 1, is_control, rate, tokens, steps)


def test_speedup_is_the_ratio_of_medians_and_needs_both_sides() -> None:
    fast = [served(t, rate, is_control=False) for t, rate in enumerate((200.0, 300.0, 1000.0))]
    slow = [served(t, rate, is_control=True) for t, rate in enumerate((90.0, 100.0, 110.0))]
    assert speedup(fast + slow) == pytest.approx(3.0)
    assert speedup(fast) is None


def test_accept_length_sums_before_it_divides() -> None:
    rows = [
        served(0, 1.0, is_control=False, tokens=10, steps=10),
        served(1, 1.0, is_control=False, tokens=90, steps=20),
    ]
    assert accept_length([*rows, served(2, 1.0, is_control=True, tokens=50, steps=50)]) == pytest.approx(100 / 30)


def test_a_window_looks_only_at_the_last_requests_of_each_side() -> None:
    rows = [served(t, 50.0 if t < 8 else 150.0, is_control=False) for t in range(16)]
    rows += [served(t + 0.5, 100.0, is_control=True) for t in range(16)]
    rows.sort(key=lambda each: each.at)
    points = windows(rows, size=4)
    assert points[0][1] == pytest.approx(0.5)
    assert points[-1][1] == pytest.approx(1.5)
    assert reached(points, 1.0) == pytest.approx(9.0)  # two of the last four are fast: their median is their mean, 1.0x
    assert reached(points, 1.5) == pytest.approx(10.0)
    assert reached(points, 2.0) is None


def test_distinct_3grams() -> None:
    assert distinct_3gram_share([[1, 2, 3, 1, 2, 3]]) == pytest.approx(3 / 4)
    assert distinct_3gram_share([[1, 2]]) == 0.0


def test_an_interval_covers_the_figure_and_narrows_with_more_turns() -> None:
    few, many = [1.0, 1.1, 0.9, 1.2], [1.0, 1.1, 0.9, 1.2] * 25
    low, high = interval(few, mean)
    assert low < 1.05 < high
    low_of_many, high_of_many = interval(many, mean)
    assert low < low_of_many < 1.05 < high_of_many < high
