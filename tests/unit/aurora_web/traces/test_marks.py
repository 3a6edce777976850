"""What became of every token, from tokens and steps alone."""

from aurora_web.traces.marks import mark
from speculators.records import StepRecord


def test_correct_rejected_dropped_and_bonus_are_told_apart():
    marked = mark([1, 2, 3, 4, 5, 6], 2, [StepRecord((4, 9, 8), 1), StepRecord((7,), 0)])
    assert (marked.prompt, marked.first, marked.rest) == ((1, 2), (3,), ())
    first, second = marked.steps
    assert (first.correct, first.rejected, first.dropped, first.bonus) == ((4,), (9,), (8,), (5,))
    assert (second.correct, second.rejected, second.dropped, second.bonus) == ((), (7,), (), (6,))
    assert (first.position, second.position) == (1, 3)


def test_a_request_that_ends_within_the_correct_drafts_has_no_bonus_and_no_rejection():
    [step] = mark([1, 2, 3, 4], 1, [StepRecord((3, 4, 5), 1)]).steps  # kept 3 and 4: the step records one correct draft
    assert (step.correct, step.rejected, step.dropped, step.bonus) == ((3, 4), (), (5,), ())


def test_all_drafts_correct_still_has_a_bonus():
    [step] = mark([1, 2, 3, 4, 5], 1, [StepRecord((3, 4), 2)]).steps
    assert (step.correct, step.rejected, step.bonus) == ((3, 4), (), (5,))


def test_every_generated_token_is_shown_exactly_once():
    tokens = list(range(20))
    marked = mark(tokens, 4, [StepRecord((5, 6, 99), 2), StepRecord((), 0), StepRecord((9, 50), 1)])
    shown = [*marked.prompt, *marked.first, *(t for step in marked.steps for t in step.committed), *marked.rest]
    assert shown == tokens
    assert len(marked.rest) == 9


def test_steps_that_say_more_than_there_is_are_cut():
    marked = mark([1, 2, 3], 1, [StepRecord((3, 4), 2), StepRecord((9,), 0)])
    assert [step.committed for step in marked.steps] == [(3,), ()]
    assert marked.steps[1].rejected == ()
