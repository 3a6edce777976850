"""What each token of a trace adds to its text; which token stands before it, in a draft that was not kept, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from aurora_web.traces.marks import Marked, MarkedStep

Read = Callable[[tuple[int, ...], tuple[int, ...]], list[Any]]  # (token ids, those before them) -> a piece of each


def of_steps(marked: Marked, read: Read, first: int = 0, most: int | None = None) -> list[dict[str, list[Any]]]:
    """The pieces of each of ``most`` steps from the index ``first`` on: correct, rejected, dropped, bonus."""
    steps = marked.steps[first:] if most is None else marked.steps[first : first + most]
    before = marked.first or marked.prompt[-1:]
    if first:
        before = marked.steps[first - 1].committed or before
    endings = [before, *(step.committed[-1:] for step in steps)]
    return [_of_step(step, read, ahead) for step, (ahead, _) in zip(steps, pairwise(endings), strict=True)]


def _of_step(step: MarkedStep, read: Read, before: tuple[int, ...]) -> dict[str, list[Any]]:
    kept = step.correct or before
    return {
        "correct": read(step.correct, before),
        "rejected": read(step.rejected, kept),
        "dropped": read(step.dropped, step.rejected or kept),
        "bonus": read(step.bonus, kept),
    }


def whole_text(tokens: Sequence[int], prompt_len: int, read_text: Callable[..., str]) -> tuple[str, str]:
    """The text of the prompt, and what was generated after it."""
    prompt, generated = tokens[:prompt_len], tokens[prompt_len:]
    return read_text(prompt), read_text(generated, prompt[-1:])
