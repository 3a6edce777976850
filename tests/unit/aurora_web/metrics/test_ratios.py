import math
import random

import pytest

from aurora_web.metrics.ratios import CrossMoments, Interval, Moments, ratio_of_ratios, stratified, student


def moments(pairs):
    return Moments(
        len(pairs),
        sum(x for x, _ in pairs),
        sum(y for _, y in pairs),
        sum(x * x for x, _ in pairs),
        sum(y * y for _, y in pairs),
        sum(x * y for x, y in pairs),
    )


def draw(rng, rate, n=40):
    """Requests of different lengths at about ``rate`` tokens per second."""
    sizes = [rng.uniform(20, 200) for _ in range(n)]
    return moments([(s, s / rate * rng.lognormvariate(0, 0.2)) for s in sizes])


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = random.Random(1)
    hits = 0
    for _ in range(500):
        a, b = draw(rng, 180.0), draw(rng, 100.0)
        found = ratio_of_ratios(a, b, a_name="a", b_name="b")
        hits += found.low <= 1.8 <= found.high
    assert 0.90 <= hits / 500 <= 0.99


@pytest.mark.parametrize("num_control", [5, 6, 9])
def test_a_few_blocks_of_control_make_the_interval_wider_not_wrong(num_control):
    rng = random.Random(num_control)
    hits = 0
    for _ in range(2000):
        a, b = draw(rng, 180.0, 200), draw(rng, 100.0, num_control)
        found = ratio_of_ratios(a, b, a_name="a", b_name="b")
        hits += found.low <= 1.8 <= found.high
    assert 0.91 <= hits / 2000 <= 0.97  # with the normal distribution's 1.96: 0.84 to 0.90


@pytest.mark.parametrize(("freedom", "quantile"), [(4, 2.7764), (5, 2.5706), (10, 2.2281), (30, 2.0423), (1e9, 1.96)])
def test_students_quantiles_are_those_of_tables(freedom, quantile):
    assert student(float(freedom)) == pytest.approx(quantile, rel=5e-3)


@pytest.mark.parametrize(
    ("z", "freedom", "quantile", "most"),
    [(2.91, 4, 6.118, 0.03), (3.65, 4, 12.16, 0.06), (3.65, 10, 5.499, 0.01), (4.5, 20, 6.029, 0.01)],
)
def test_rarer_quantiles_are_too_wide_if_anything(z, freedom, quantile, most):
    assert 0.999 <= student(float(freedom), z) / quantile <= 1 + most


def test_too_few_requests_give_a_reason_and_no_number():
    found = ratio_of_ratios(moments([(1, 1)] * 4), moments([(1, 1)] * 9), a_name="speculative", b_name="control")
    assert (found.value, found.low) == (None, None)
    assert found.reason == "4 speculative requests, at least 5 are needed"
    one = ratio_of_ratios(moments([(1, 1)]), moments([(1, 1)] * 9), a_name="speculative", b_name="control")
    assert one.reason == "1 speculative request, at least 5 are needed"


def test_no_time_gives_no_number():
    found = ratio_of_ratios(moments([(1, 0.0)] * 9), moments([(1, 1)] * 9), a_name="a", b_name="b")
    assert found.value is None


def test_strata_are_averaged_on_the_log_scale():
    found = stratified(
        [(Interval(2.0, 1.0, 4.0), 1.0), (Interval(0.5, 0.25, 1.0), 1.0), (Interval(None, None, None, "few"), 9.0)]
    )
    assert found.value == pytest.approx(1.0)
    assert math.log(found.high) == pytest.approx(math.log(2) * math.sqrt(2) / 2)


def test_without_any_stratum_the_reason_is_kept():
    assert stratified([(Interval(None, None, None, "few"), 9.0)]).reason == "few"
    assert stratified([]).value is None


def both_sides(rng, n=60):
    """Traces whose difficulty both drafts share: tokens of a trace, steps of candidate (truth: 1.1 better) and live."""
    ours, theirs = [], []
    for _ in range(n):
        tokens, difficulty = rng.uniform(20, 200), rng.lognormvariate(0, 0.4)
        theirs.append((tokens, tokens / 2 * difficulty * rng.lognormvariate(0, 0.05)))
        ours.append((tokens, tokens / 2.2 * difficulty * rng.lognormvariate(0, 0.05)))
    cross = CrossMoments(
        n,
        sum(x * u for (x, _), (u, _) in zip(ours, theirs, strict=True)),
        sum(x * v for (x, _), (_, v) in zip(ours, theirs, strict=True)),
        sum(y * u for (_, y), (u, _) in zip(ours, theirs, strict=True)),
        sum(y * v for (_, y), (_, v) in zip(ours, theirs, strict=True)),
    )
    return moments(ours), moments(theirs), cross


def test_a_paired_interval_is_much_narrower_and_still_covers_the_truth():
    rng = random.Random(2)
    hits, narrower = 0, 0
    for _ in range(400):
        a, b, cross = both_sides(rng)
        paired = ratio_of_ratios(a, b, a_name="a", b_name="b", pairs=cross)
        plain = ratio_of_ratios(a, b, a_name="a", b_name="b")
        hits += paired.low <= 1.1 <= paired.high
        narrower += (paired.high - paired.low) * 4 < plain.high - plain.low
        assert paired.value == plain.value
    assert 0.90 <= hits / 400 <= 0.99
    assert narrower == 400


def test_pairs_that_do_not_cover_both_sides_do_not_count():
    a, b, cross = both_sides(random.Random(3))
    partly = CrossMoments(a.n - 1, cross.sum_xu, cross.sum_xv, cross.sum_yu, cross.sum_yv)
    plain = ratio_of_ratios(a, b, a_name="a", b_name="b")
    assert ratio_of_ratios(a, b, a_name="a", b_name="b", pairs=partly) == plain
