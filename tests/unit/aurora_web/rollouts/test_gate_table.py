"""The gate's report as a table: what the word beside each row says, and that the legend says the same."""

from dataclasses import replace

import pytest

from aurora_web.registry.models import Target
from aurora_web.rollouts.gate_table import gate_rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def words(target, judged, report):
    """{(domain, metric): (word, badge)} of a candidate: words({"sql": (candidate, live)}, min_gain=0.1)."""

    def make(domains, n=10, without=(), **policy):
        Target.objects.update(**policy)
        target.refresh_from_db()
        judged()
        found = report(domains, n)
        found = replace(found, live=tuple(score for score in found.live if score.domain not in without))
        rows = gate_rows(judged(found).gate_decision)
        return {(row.domain, row.metric): (row.word, row.badge) for row in rows}

    return make


@pytest.mark.parametrize(
    ("sql", "min_gain", "word"),
    [
        ((3.0, 1.5), 0.1, ("Better", "good")),
        ((1.6, 1.5), 0.1, ("Too little", "warn")),  # it has gained, so it is not worse
        ((1.5, 1.5), 0.0, ("Too little", "warn")),
        ((1.2, 1.5), 0.0, ("Worse", "bad")),
        ((1.2, 1.5), -0.5, ("Worse", "bad")),
    ],
)
def test_over_all_domains_the_gain_that_the_policy_asks_for_decides(words, sql, min_gain, word):
    found = words({"sql": sql}, min_gain=min_gain)
    assert found["", "Accept length"] == word


def test_a_domain_is_worse_beyond_the_tolerance_and_passes_within(words):
    found = words({"sql": (3.0, 1.5), "prose": (1.2, 1.5), "code": (1.45, 1.5)}, domain_tolerance=0.1)
    assert found["sql", "Accept length"] == ("Better", "good")
    assert found["prose", "Accept length"] == ("Worse", "bad")
    assert found["code", "Accept length"] == ("Pass", "")
    assert found["code", "Accept rate"] == ("Not judged", "")


def test_what_one_side_has_not_replayed_has_no_data(words):
    found = words({"sql": (3.0, 1.5), "prose": (1.2, 1.5)}, without=("prose",))
    assert found["prose", "Accept length"] == found["prose", "Accept rate"] == ("No data", "")
    assert found["sql", "Accept length"] == ("Better", "good")


def test_without_anything_to_compare_with_nothing_has_data(words):
    found = words({"sql": (3.0, 1.5)}, without=("sql",))
    assert set(found.values()) == {("No data", "")}


def test_a_domain_of_two_traces_is_not_judged(words):
    found = words({"sql": (1.2, 1.5)}, n=2, domain_tolerance=0.1, min_held_out_traces=1)
    assert found["sql", "Accept length"] == ("Not judged", "")


def test_the_legend_has_every_word_and_the_table_says_where_there_is_no_interval(clients, words):
    words({"sql": (1.6, 1.5)}, min_gain=0.1)
    page = clients["viewer"].get("/targets/demo/versions/2/").content.decode()
    for word in ("Pass", "Better", "Too little", "Worse", "No data", "Not judged"):
        assert f"{word}:" in page
    assert '<span class="badge warn">Too little</span>' in page
    assert "Too little: over all domains no loss, but less than the policy asks for." in page
    assert "fewer than 3 held-out traces" in page
    assert page.count('<span class="muted">no interval</span>') == 1  # of the accept rate
