"""What became of every token of a trace, verify step by verify step (speculators.records.StepOutcome)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from speculators.records import StepRecord


@dataclass(frozen=True, slots=True)
class MarkedStep:
    """One verify step; the ids are those of the target's vocabulary."""

    number: int  # from 1
    position: int  # of its first committed token, counted from the first generated token
    correct: tuple[int, ...]
    rejected: tuple[int, ...]  # what the draft had proposed where the target said otherwise; none or one
    dropped: tuple[int, ...]  # proposed after that, never checked
    bonus: tuple[int, ...]  # the target's own token; none where the request ended before it

    @property
    def num_proposed(self) -> int:
        return len(self.correct) + len(self.rejected) + len(self.dropped)

    @property
    def committed(self) -> tuple[int, ...]:
        return self.correct + self.bonus


@dataclass(frozen=True, slots=True)
class Marked:
    """A trace as its steps made it."""

    prompt: tuple[int, ...]
    first: tuple[int, ...]  # the first generated token: the prompt's own pass made it
    steps: tuple[MarkedStep, ...]
    rest: tuple[int, ...]  # generated tokens that no recorded step accounts for


def mark(tokens: Sequence[int], prompt_len: int, steps: Sequence[StepRecord]) -> Marked:
    """Split the tokens of a trace by what made them."""
    at = min(prompt_len + 1, len(tokens))
    marked = []
    for number, step in enumerate(steps, start=1):
        kept = tuple(tokens[at : at + step.num_correct_drafts + 1])
        marked.append(MarkedStep(number, at - prompt_len, *step.outcome(kept)))
        at += len(kept)
    return Marked(
        tuple(tokens[:prompt_len]), tuple(tokens[prompt_len : prompt_len + 1]), tuple(marked), tuple(tokens[at:])
    )
