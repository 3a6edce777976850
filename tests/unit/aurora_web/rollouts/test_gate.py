from dataclasses import replace

import pytest

from aurora_web.rollouts.gate import Policy, decide

POLICY = Policy(min_gain=0.01, domain_tolerance=0.1, min_held_out_traces=4)


@pytest.mark.parametrize(("live", "passed"), [("none", True), ("random", True), ("unjudged", False), ("judged", False)])
def test_without_held_out_traces_only_random_weights_give_way(live, passed):
    verdict = decide(None, replace(POLICY, live=live))
    assert verdict.passed is passed
    assert "andom weights" not in verdict.reasons[0] or live == "random"


def test_one_held_out_trace_is_enough_against_a_version_without_any(report):
    candidate = report({"sql": (2.0, 1.0)}, n=1)
    assert decide(candidate, replace(POLICY, live="unjudged", live_num_traces=0)).passed
    assert decide(candidate, replace(POLICY, live_num_traces=1)).passed  # as many as what is live was judged on
    assert not decide(candidate, replace(POLICY, live_num_traces=2)).passed
    assert not decide(candidate, POLICY).passed


def test_a_better_candidate_passes_with_numbers(report):
    verdict = decide(report({"sql": (2.0, 1.5)}), POLICY)
    assert verdict.passed
    assert "1.50 → 2.00" in verdict.reasons[0]
    assert "+33.3\u00a0%" in verdict.reasons[0] and "-" not in verdict.reasons[0].replace("held-out", "")


@pytest.mark.parametrize("candidate", [1.0, 1.5])
def test_no_gain_is_rejected(report, candidate):
    assert not decide(report({"sql": (candidate, 1.5)}), POLICY).passed


def test_one_domain_that_gets_much_worse_rejects_it(report):
    verdict = decide(report({"sql": (4.0, 2.0), "prose": (1.2, 1.5)}), POLICY)
    assert not verdict.passed
    assert any("prose gets worse" in reason for reason in verdict.reasons)
    assert [d.is_worse for d in verdict.domains] == [True, False]


def test_within_the_tolerance_is_fine(report):
    assert decide(report({"sql": (4.0, 2.0), "prose": (1.45, 1.5)}), POLICY).passed


def test_a_domain_with_too_few_traces_is_not_judged(report):
    few, many = report({"prose": (1.0, 2.0)}, n=2), report({"sql": (4.0, 2.0)})
    both = type(few)(few.candidate + many.candidate, few.live + many.live, 4, 1.0, 0.1)
    assert decide(both, POLICY).passed


def test_too_few_traces_say_nothing(report):
    verdict = decide(report({"sql": (4.0, 1.0)}, n=3), POLICY)
    assert not verdict.passed
    assert "Only 3 held-out traces" in verdict.reasons[0]


def test_nothing_live_passes(report):
    assert decide(report({"sql": (1.2, None)}), POLICY).passed


def test_pairs_make_the_interval_of_the_gain_narrower(report):
    def spread(score):
        """The same sums, from traces half of which are long and half short."""
        return replace(score, sum_xx=score.sum_xx * 1.25, sum_yy=score.sum_yy * 1.25, sum_xy=score.sum_xy * 1.1)

    plain = report({"sql": (2.0, 1.5)})
    [ours], [theirs] = plain.candidate, plain.live
    ours, theirs = spread(ours), spread(theirs)
    n = ours.num_traces
    cross = {  # residuals of candidate and live go together, as on traces that are hard for both
        "num_paired": n,
        "sum_xu": ours.num_accept_tokens * theirs.num_accept_tokens / n * 1.25,
        "sum_xv": ours.num_accept_tokens * theirs.num_verify_steps / n * 1.1,
        "sum_yu": ours.num_verify_steps * theirs.num_accept_tokens / n * 1.1,
        "sum_yv": ours.num_verify_steps * theirs.num_verify_steps / n * 1.25,
    }
    unpaired = decide(replace(plain, candidate=(ours,), live=(theirs,)), POLICY).gain
    paired = decide(replace(plain, candidate=(replace(ours, **cross),), live=(theirs,)), POLICY).gain
    assert unpaired.value == paired.value
    assert (paired.high - paired.low) * 2 < unpaired.high - unpaired.low
    [verdict] = decide(replace(plain, candidate=(replace(ours, **cross),), live=(theirs,)), POLICY).domains
    assert (verdict.gain_low, verdict.gain_high) == (paired.low, paired.high)


MIXED = {"sql": (1.9, 2.0), "prose": (1.5, 1.2)}


@pytest.mark.parametrize(
    ("requests", "passed", "gain"),
    [
        ({}, True, 3.4 / 3.2 - 1),  # nothing is known of the traffic: by traces
        ({"sql": 200}, False, 1.9 / 2.0 - 1),
        ({"prose": 200, "unheard_of": 500}, True, 1.5 / 1.2 - 1),
        ({"sql": 150, "prose": 50}, False, (3 * 1.9 + 1.5) / (3 * 2.0 + 1.2) - 1),
    ],
)
def test_domains_count_by_their_share_of_the_traffic(report, requests, passed, gain):
    verdict = decide(report(MIXED), POLICY, requests)
    assert verdict.passed is passed
    assert verdict.gain.value == pytest.approx(gain)
    assert ("shares of the latest requests" in verdict.reasons[0]) is bool(requests)


def test_shares_do_not_depend_on_how_many_traces_are_held_out(report):
    few, many = report({"sql": (1.9, 2.0)}, n=5), report({"prose": (1.5, 1.2)}, n=50)
    both = replace(few, candidate=few.candidate + many.candidate, live=few.live + many.live)
    verdict = decide(both, POLICY, {"sql": 30, "prose": 10})
    assert verdict.gain.value == pytest.approx((3 * 1.9 + 1.5) / (3 * 2.0 + 1.2) - 1)
    assert verdict.accept_length == pytest.approx((3 * 1.9 + 1.5) / 4)
    assert [d.share for d in verdict.domains] == [0.25, 0.75]
    assert verdict.gain.low < verdict.gain.value < verdict.gain.high


def test_a_domain_without_traffic_may_not_be_spoilt_either(report):
    verdict = decide(report({"sql": (1.2, 2.0), "prose": (1.5, 1.2)}), POLICY, {"prose": 200})
    assert not verdict.passed
    assert any("sql gets worse" in reason for reason in verdict.reasons)
