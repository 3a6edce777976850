"""What a candidate would do to speed: its acceptance at the costs of steps that a replica has reported."""

import time
from dataclasses import replace

import pytest

from aurora_web.console.timeline import timeline
from aurora_web.metrics import services as metrics
from aurora_web.rollouts import replicas
from aurora_web.rollouts.gate_table import gate_rows
from aurora_web.rollouts.predicted import predicted_speedup
from speculators.records import RecordError
from tests.unit.aurora_web.conftest import count_window

SECONDS = [1.0, 1.25, 1.5]


@pytest.fixture
def by_position(report):
    """A report of one domain on 200 steps: by_position(candidate, live), how many of them each draft passed."""

    def make(candidate, live, domain="sql"):
        whole = report({domain: (2.0, 1.5)})
        sides = [
            (replace(side[0], proposed_by_position=(200,) * len(correct), correct_by_position=correct),)
            for side, correct in ((whole.candidate, candidate), (whole.live, live))
        ]
        return replace(whole, candidate=sides[0], live=sides[1])

    return make


def test_each_domain_drafts_as_many_tokens_as_pay(by_position):
    good, bad = by_position((100, 50), (10, 0)).candidate, by_position((10, 0), (10, 0), "prose").candidate
    # 1.5 tokens for 1.25 s, or 1.75 for 1.5 s: the first; 1.05 for 1.25 s is slower than no drafts at all.
    assert predicted_speedup(good, {}, SECONDS) == pytest.approx(1.2)
    assert predicted_speedup(bad, {}, SECONDS) == 1.0
    assert predicted_speedup(good + bad, {}, SECONDS) == pytest.approx(2 / (1.25 / 1.5 + 1))
    assert predicted_speedup(good + bad, {"sql": 0.0, "prose": 1.0}, SECONDS) == 1.0
    assert predicted_speedup(good, {}, SECONDS[:1]) == 1.0  # nothing is drafted


def test_without_costs_or_counts_by_position_nothing_is_predicted(by_position, report):
    assert predicted_speedup(by_position((100,), (10,)).candidate, {}, []) is None
    assert predicted_speedup(report({"sql": (2.0, 1.5)}).candidate, {}, SECONDS) is None
    assert predicted_speedup((), {}, SECONDS) is None


def test_a_verdict_says_what_it_would_do_to_speed(target, judged, observed, by_position):
    judged()
    replicas.observe(observed(step_seconds=(1.0, 1.25, 1.5)))
    decision = judged(by_position((100, 50), (10, 0))).gate_decision
    assert decision.predicted_speedup == pytest.approx(1.2)
    assert decision.live_predicted_speedup == 1.0
    predicted = next(row for row in gate_rows(decision) if row.metric == "Speedup, predicted")
    assert (predicted.word, predicted.change) == ("Not judged", pytest.approx(0.2))
    (said,) = [e["text"] for e in timeline(target, time.time() - 60, time.time() + 1) if "v2 passed" in e["text"]]
    assert "passed: +20\u00a0% predicted speed, +33\u00a0% accept length (95 %: " in said


def test_a_rate_of_nothing_is_data_too(judged, report):
    judged()
    whole = report({"sql": (2.0, 1.5)})
    live = tuple(replace(score, num_correct_drafts=0, num_proposed_drafts=80) for score in whole.live)
    candidate = tuple(replace(score, num_correct_drafts=20, num_proposed_drafts=80) for score in whole.candidate)
    rows = gate_rows(judged(replace(whole, candidate=candidate, live=live)).gate_decision)
    [rate] = [row for row in rows if row.metric == "Accept rate"]
    assert (rate.candidate, rate.live, rate.change, rate.word) == (0.25, 0.0, None, "Not judged")


def test_a_replica_that_measures_nothing_leaves_accept_length_alone(judged, observed, by_position):
    judged()
    replicas.observe(observed())
    decision = judged(by_position((100, 50), (10, 0))).gate_decision
    assert decision.predicted_speed_gain is None
    assert not [row for row in gate_rows(decision) if row.metric == "Speedup, predicted"]


def test_costs_that_are_no_numbers_are_refused(target, observed):
    with pytest.raises(RecordError, match="step_seconds"):
        replicas.observe(observed(step_seconds=(1.0, float("nan"))))


def test_where_little_is_drafted_the_page_says_from_which_acceptance_on_it_would_pay(target, judged, observed, clients):
    judged()
    metrics.ingest_counts({"counts": [count_window(plain=3000).to_json()]})
    metrics.roll_up()
    page = clients["viewer"].get(f"/targets/{target.slug}/").content.decode()
    assert "of the steps drafted nothing" in page
    assert "lengthens a step" not in page
    replicas.observe(observed(step_seconds=(0.02, 0.031, 0.04)))
    page = clients["viewer"].get(f"/targets/{target.slug}/").content.decode()
    assert "a first draft lengthens a step by 55.0\u00a0% here: it pays where more than that pass" in page
