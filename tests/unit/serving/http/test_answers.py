"""``usage.speculative``: what a client is told of the verify steps of its request."""

import pytest

from serving.engine.api import Request
from serving.http.answers import usage_of
from serving.http.generation import Ending
from speculators.records import StepRecord
from tests.unit.serving.fakes import make_finished

STEPS = (StepRecord((7, 8, 9), 1), StepRecord((), 0), StepRecord((5,), 1), StepRecord((4, 3), 0))


def usage(steps, num_generated):
    finished = make_finished(Request("a", (1, 2, 3)), list(range(num_generated)), steps)
    return usage_of(Ending("stop", num_generated, finished))


def test_the_counts_are_the_sums_of_the_steps():
    found = usage(STEPS, 7)  # the prompt's own pass made one, the steps 2 + 1 + 2 + 1
    assert (found["prompt_tokens"], found["completion_tokens"], found["total_tokens"]) == (3, 7, 10)
    assert found["speculative"] == {
        "version": 7,
        "is_control": False,
        "num_verify_steps": 4,
        "num_plain_steps": 1,
        "num_proposed_drafts": 6,
        "num_correct_drafts": 2,
        "num_accept_tokens": 6,
        "accept_length": pytest.approx(5 / 3),  # of the steps with drafts
        "decode_seconds": 0.25,
    }


def test_without_a_step_that_drafted_there_is_no_accept_length():
    assert usage((StepRecord((), 0),), 2)["speculative"]["accept_length"] == 0.0
    assert usage((), 1)["speculative"]["num_accept_tokens"] == 0
