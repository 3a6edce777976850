"""When a swap has collapsed: against the least that was asked for, and against what the version before it did."""

from dataclasses import dataclass

import pytest

from serving.engine.versions import Versions


@dataclass(frozen=True)
class Draft:
    sha256: str
    uri: str = ""


def served(versions, steps, domain="sql"):
    """What the live version's steps lead to: the first reason for a revert."""
    return next((why for tokens in steps if (why := versions.observe(versions.live, domain, 4, tokens))), "")


def swapped(before):
    """Version 2 in the place of version 1, which did these steps last; asked for: 1.5 tokens per step."""
    versions = Versions(4, 4)
    versions.swap(1, Draft("a"), 0.0)
    assert served(versions, before) == ""
    versions.swap(2, Draft("b"), 1.5)
    return versions


@pytest.mark.parametrize(
    ("before", "after", "collapses"),
    [
        ([3, 3, 3, 3], [1, 1, 1, 1], True),
        ([3, 3, 3, 3], [2, 2, 1, 1], False),  # 1.5, as asked for
        ([3] * 4 + [1] * 16, [1, 1, 1, 1], False),  # the version before had become as bad
        ([1] * 4 + [3] * 16, [1, 1, 1, 1], True),
        ([2, 1, 2, 1], [1, 1, 1, 1], True),
        ([1, 2, 1, 1], [1, 1, 1, 1], False),  # within the noise of a request or two
        ([3, 3], [1, 1, 1, 1], True),  # too few steps to say anything about the version before
    ],
)
def test_a_collapse_is_worse_than_asked_for_and_than_before(before, after, collapses):
    assert bool(served(swapped(before), after)) == collapses


@pytest.mark.parametrize(
    ("domains", "collapses"),
    [
        (["prose"] * 4, False),  # new to the version before: the traffic has changed
        (["code"] * 4, False),  # as bad there
        (["sql", "code", "code", "code"], True),  # two tokens lost in the one that can be compared and was good
        (["sql", "prose", "prose", "prose"], True),
    ],
)
def test_like_is_compared_with_like(domains, collapses):
    versions = Versions(4, 4)
    versions.swap(1, Draft("a"), 0.0)
    assert served(versions, [3] * 6, "sql") == served(versions, [1] * 6, "code") == ""
    versions.swap(2, Draft("b"), 1.5)
    assert any(served(versions, [1], domain) for domain in domains) == collapses


@pytest.mark.parametrize(
    ("before", "collapses"),
    [
        ([(2, 6), (2, 6)], True),
        ([(40, 120), (14, 14), (2, 2)], False),  # the last sixteen steps count, not the forty before
        ([(1, 1), (40, 120)], True),
        ([(3, 9)], True),  # too few steps to say anything about the version before
    ],
)
def test_steps_that_are_counted_together_are_compared_too(before, collapses):
    versions = Versions(4, 4)
    versions.swap(1, Draft("a"), 0.0)
    for num_steps, num_accept_tokens in before:
        assert versions.observe(versions.live, "", 4, num_accept_tokens, num_steps) == ""
    versions.swap(2, Draft("b"), 1.5)
    assert bool(versions.observe(versions.live, "", 4, 110, 100)) == collapses


def test_what_serves_again_is_not_on_trial():
    versions = swapped([3, 3, 3, 3])
    versions.revert(served(versions, [1, 1, 1, 1]))
    assert (versions.live.version, versions.reverted_from) == (1, 2)
    assert served(versions, [1] * 8) == ""


def test_steps_without_drafts_say_nothing():
    versions = swapped([3, 3, 3, 3])
    assert [versions.observe(versions.live, "sql", 0, 1) for _ in range(8)] == [""] * 8
    assert versions.probe.num_steps == 0


def test_what_is_swapped_in_once_more_leaves_what_was_before_it():
    """The engine may have taken it up after it was given up: a revert must not lead back to it."""
    versions = Versions(probe_steps=4, max_lookahead=4)
    versions.swap(1, Draft("a"), 0.0)
    for _ in range(2):
        versions.swap(2, Draft("b"), 0.0)
    assert versions.previous.version == 1
    versions.revert("collapsed")
    assert versions.live.version == 1


@pytest.mark.parametrize(
    ("before", "own", "after", "collapses"),
    [
        ([1, 2, 1, 1], [1, 1, 1], [1, 1, 1, 1], False),  # too few of its own, and no worse than what was before it
        ([3, 3, 3, 3], [2, 1, 2, 1], [2, 1, 1, 1], True),  # little worse than itself, and much worse than that
    ],
)
def test_what_is_swapped_in_once_more_is_compared_with_what_was_before_it(before, own, after, collapses):
    versions = swapped(before)
    assert served(versions, own) == ""
    versions.swap(2, Draft("b"), 1.5)
    assert bool(served(versions, after)) == collapses


def test_what_is_swapped_in_once_more_loses_no_steps_to_compare_its_successor_with():
    versions = swapped([3, 3, 3, 3])
    served(versions, [3, 3, 3, 3])
    versions.swap(2, Draft("b"), 1.5)
    versions.swap(3, Draft("c"), 1.5)
    assert versions.probe.before == {"sql": 3.0}
