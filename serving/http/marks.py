"""What became of the tokens of a stream, verify step by verify step: the member ``aurora`` of its chunks.

``{"step": 3, "correct": [" FROM", " users"], "rejected": [" AND"], "dropped": [" id"], "bonus": [" WHERE"]}``, one text
per token, in the words of speculators.records.StepOutcome; lists without a token are left out. Step 0 has the ``first``
token, which the prompt's own pass made. A token that is a part of a character has the text "", and the one that
completes the character has all of it; where the answer ends before that, the last chunk has it as ``unfinished``. The
texts of first, correct, bonus and unfinished are the answer's text, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving.http.tokenizer import Detokeniser
from speculators.records import StepRecord


@dataclass(frozen=True, slots=True)
class Marks:
    """One chunk's."""

    step: int  # from 1; 0 = before the first verify step
    first: tuple[str, ...] = ()
    correct: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    bonus: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What the chunk adds to the answer."""
        return "".join((*self.first, *self.correct, *self.bonus, *self.unfinished))

    def to_json(self) -> dict[str, Any]:
        lists = ("first", "correct", "rejected", "dropped", "bonus", "unfinished")
        return {"step": self.step} | {name: list(found) for name in lists if (found := getattr(self, name))}


class Marker:
    """Pushes the tokens of a stream into its detokeniser, and keeps them apart."""

    def __init__(self, detokeniser: Detokeniser) -> None:
        self._detokeniser = detokeniser
        self._step = 0

    def mark(self, tokens: tuple[int, ...], step: StepRecord | None) -> Marks:
        """The next tokens; ``step`` None: those before the first verify step."""
        push = self._detokeniser.push
        if step is None:
            return Marks(0, first=tuple(push(token) for token in tokens))
        self._step += 1
        outcome = step.outcome(tokens)
        correct = tuple(push(token) for token in outcome.correct)
        left = self._detokeniser.ahead((*outcome.rejected, *outcome.dropped))
        num_rejected = len(outcome.rejected)
        bonus = tuple(push(token) for token in outcome.bonus)
        return Marks(
            self._step, correct=correct, rejected=tuple(left[:num_rejected]), dropped=tuple(left[num_rejected:]),
            bonus=bonus,
        )  # fmt: skip

    def unfinished(self, text: str) -> Marks:
        """What was held back when the answer ended."""
        return Marks(self._step, unfinished=(text,))
