import pytest

from serving.engine.acceptance import BINS, MAX_DOMAINS, Acceptance, Calibration, Chooser
from serving.engine.sequence import HeldBack, Proposal


def test_a_draft_is_taken_at_its_word_until_it_is_seen_at_work():
    calibration = Calibration()
    assert calibration.chances() == pytest.approx([(place + 0.5) / BINS for place in range(BINS)])
    for number in range(400):
        calibration.observe(0.95, float(number % 2))
    assert calibration.chances()[9] == pytest.approx(0.5, abs=0.03)
    assert calibration.chances()[:9] == Calibration().chances()[:9]


def test_a_chance_counts_as_much_as_its_luck():
    calibration = Calibration()
    for _ in range(400):
        calibration.observe(1.0, 0.25)
    assert calibration.chances()[9] == pytest.approx(0.25, abs=0.04)


def test_what_was_true_a_hundred_drafts_ago_is_outweighed():
    calibration = Calibration()
    for passed in (1.0, 0.0):
        for _ in range(400):
            calibration.observe(0.55, passed)
    assert calibration.chances()[5] < 0.1


def test_rates_are_of_drafts_whose_predecessors_passed():
    acceptance = Acceptance(4)
    for _ in range(100):
        acceptance.observe([(0.9, 1.0), (0.9, 0.0)], 1)
    rates = acceptance.rates()
    assert rates[0] > 0.95
    assert rates[1] < 0.05
    assert acceptance.tried[2] == 0
    assert acceptance.tokens_per_step == pytest.approx(2, abs=0.3)


def test_shares_say_how_sure_the_draft_tends_to_be_at_a_position():
    acceptance = Acceptance(4)
    assert acceptance.shares(0) == pytest.approx([1 / BINS] * BINS)
    for number in range(200):
        acceptance.observe([(0.25 if number % 4 else 0.85, 0.0)], 0)
    assert sum(acceptance.shares(0)) == pytest.approx(1)
    assert acceptance.shares(0)[2] == pytest.approx(0.75, abs=0.03)
    assert acceptance.shares(0)[8] == pytest.approx(0.25, abs=0.03)
    assert acceptance.shares(3) == pytest.approx(acceptance.shares(0)), "nothing is known of further ones"


def test_a_proposal_tells_of_its_drafts_up_to_the_first_wrong_one():
    proposal = Proposal(tokens=[5, 6, 7], confidences=[0.9, 0.8, 0.7])
    assert proposal.seen(3, None) == [(0.9, 1.0), (0.8, 1.0), (0.7, 1.0)]
    assert proposal.seen(1, None) == [(0.9, 1.0), (0.8, 0.0)]
    assert proposal.seen(0, None) == [(0.9, 0.0)]


def test_and_of_the_one_that_was_held_back_where_all_before_it_passed():
    proposal = Proposal(tokens=[5], confidences=[0.9, 0.2], held_back=HeldBack(6, None))
    assert proposal.seen(1, 0.125) == [(0.9, 1.0), (0.2, 0.125)]
    assert proposal.seen(0, None) == [(0.9, 0.0)]
    assert Proposal(confidences=[0.2], held_back=HeldBack(6, None)).seen(0, 1.0) == [(0.2, 1.0)]
    assert Proposal().seen(0, None) == []


def test_domains_share_what_a_confidence_is_worth_and_nothing_else():
    chooser = Chooser(4)
    for _ in range(200):
        chooser.acceptance("sql").observe([(0.95, 0.5)], 0)
    prose = chooser.acceptance("prose")
    assert prose.calibration.chances()[9] == pytest.approx(0.5, abs=0.03)
    assert prose.shares(0) == pytest.approx([1 / BINS] * BINS)
    assert prose.rates()[0] == 0.5


def test_a_new_version_starts_from_what_the_one_before_it_was_like():
    before = Chooser(4)
    for _ in range(200):
        before.acceptance("good").observe([(0.95, 1.0)] * 4, 4)
        before.acceptance("bad").observe([(0.15, 0.0)], 0)
    after = Chooser(4, before)
    assert after.acceptance("good").rates()[0] > 0.8
    assert after.acceptance("good").shares(0)[9] > 0.6
    assert after.acceptance("bad").rates()[0] < 0.2
    assert after.acceptance("good").calibration is after.acceptance("new").calibration
    assert after.acceptance("new").rates()[0] == 0.5
    for _ in range(25):  # and soon from its own
        after.acceptance("good").observe([(0.95, 0.0)], 0)
    assert after.acceptance("good").rates()[0] < 0.2
    assert after.acceptance("good").calibration.chances()[9] < 0.4
    assert before.acceptance("good").rates()[0] > 0.9


def test_domains_are_bounded_and_the_one_not_used_for_longest_begins_anew():
    chooser = Chooser(4)
    for domain in ("gone", "kept"):
        chooser.acceptance(domain).observe([(0.95, 1.0)] * 4, 4)
    for number in range(MAX_DOMAINS - 1):
        chooser.acceptance(f"name-{number}")
        chooser.acceptance("kept")
    assert len(chooser.domains()) == MAX_DOMAINS
    assert "gone" not in chooser.domains()
    assert chooser.acceptance("kept").tried[0] == 1
    after = Chooser(4, chooser)
    for number in range(20_000):
        after.acceptance(f"other-{number}")
        after.acceptance("kept")
    assert len(after.domains()) == MAX_DOMAINS
    assert after.acceptance("kept").tried[0] == 1, "carried from the version before"
    assert after.acceptance("gone").tried[0] == 0
