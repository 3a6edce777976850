"""One running request, as the engine's thread sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from aurora_kernels.sampling import LEAST_TEMPERATURE
from torch import Tensor

from serving.draft_runner import DraftRunner
from serving.engine.acceptance import Seen
from serving.engine.api import FinishedRequest, FinishReason, Part, Request
from serving.engine.control import Tally
from serving.engine.versions import Served
from serving.model.attention import Span
from speculators.records import StepRecord

HALF_MAX = 65504.0


class HeldBack(NamedTuple):
    """A draft that is not verified, for what the target says in its place to be compared with.

    ``distribution``: over the draft's vocabulary when sampling, else None.
    """

    token: int
    distribution: Tensor | None


@dataclass(slots=True)
class Proposal:
    """Drafts for one verify step."""

    tokens: list[int] = field(default_factory=list)
    probabilities: list[Tensor] = field(default_factory=list)  # of each, over the target's vocabulary [V]; [] = greedy
    confidences: list[float] = field(default_factory=list)  # how sure the draft was of each, and of one held back
    held_back: HeldBack | None = None  # what the draft would have said next

    def seen(self, num_correct_drafts: int, held_back_chance: float | None) -> list[Seen]:
        """What the step has told of these drafts; ``held_back_chance`` None = nothing of the one held back."""
        tried = range(min(len(self.tokens), num_correct_drafts + 1))
        seen = [(self.confidences[i], float(i < num_correct_drafts)) for i in tried]
        if held_back_chance is not None:
            seen.append((self.confidences[-1], held_back_chance))
        return seen


class Sequence:
    """Tokens so far, where its states lie, and what happened; only the engine's thread touches it.

    Invariant between steps: the caches hold the positions 0 .. num_cached - 1, that is every token but the last.
    """

    def __init__(
        self,
        request: Request,
        served: Served[DraftRunner],
        slot: int,
        lookahead: int,
        submitted_at: float,
        *,
        is_pinned: bool = False,
    ) -> None:
        self.request = request
        self.served = served
        self.slot = slot
        self.lookahead = lookahead
        self.is_pinned = is_pinned  # lookahead is what a person fixed, not a bound of the choice
        self.submitted_at = submitted_at
        self.tokens = list(request.prompt)
        self.num_drafted = 0  # entries in the draft's cache that hold target features
        self.steps: list[StepRecord] = []
        self.prefill_seconds = 0.0
        self.decode_seconds = 0.0
        self.batch_size_sum = 0
        self.finish_reason: FinishReason | None = None
        self.error = ""
        self.counted_version: int | None = (
            None  # set at admission where nothing drafts: a control by choice, no version
        )
        self.control = Tally()  # of its steps, those of the control
        seed = request.sampling.seed
        self.generator = torch.Generator()
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)

    @property
    def group(self) -> int:
        """Who decodes together: all but those that are alone, and those that are to be decoded without speculation,
        which would wait for the drafts of others."""
        return id(self) if self.request.is_alone else int(bool(self.request.is_control))

    @property
    def num_cached(self) -> int:
        """Positions whose keys, values and states are those of committed tokens."""
        return len(self.tokens) - 1

    @property
    def num_left(self) -> int:
        """Tokens that may still be generated."""
        return len(self.request.prompt) + self.request.sampling.max_tokens - len(self.tokens)

    @property
    def mean_batch_size(self) -> float:
        """Requests per verify step; 1.0 before the first one."""
        return self.batch_size_sum / len(self.steps) if self.steps else 1.0

    @property
    def is_greedy(self) -> bool:
        return self.request.sampling.temperature < LEAST_TEMPERATURE

    def verify_span(self, num_drafts: int) -> Span:
        """Where the last token and its drafts go."""
        return Span(self.slot, self.num_cached, num_drafts + 1)

    @property
    def num_pending(self) -> int:
        """Committed positions that are not in the draft's cache yet."""
        return self.num_cached - self.num_drafted

    @property
    def num_watchable(self) -> int:
        """Pending positions whose guess is a generated token that is known: entry i is of token i + 2."""
        return max(0, self.num_cached - 1 - max(self.num_drafted, len(self.request.prompt) - 1))

    def pending_span(self) -> Span:
        """Their draft entries."""
        return Span(self.slot, self.num_drafted, self.num_pending)

    def append(self, tokens: list[int], ends: frozenset[int]) -> list[int]:
        """Commit tokens up to an end; returns what was kept and sets ``finish_reason`` when it is the last."""
        kept: list[int] = []
        for token in tokens:
            kept.append(token)
            self.tokens.append(token)
            if self._ends(token, ends):
                self.finish_reason = "stop"
                break
            if self.num_left == 0:
                self.finish_reason = "length"
                break
        return kept

    def _ends(self, token: int, ends: frozenset[int]) -> bool:
        sampling = self.request.sampling
        return token in sampling.stop_token_ids or (token in ends and not sampling.ignore_eos)

    def finished(self, features_TK: Tensor | None, final_TH: Tensor | None) -> FinishedRequest:
        """The report; states are copied as float16, cut to its largest value."""
        return FinishedRequest(
            request_id=self.request.request_id,
            domain=self.request.domain,
            version=self.served.version,
            tokens=tuple(self.tokens),
            prompt_len=len(self.request.prompt),
            temperature=0.0 if self.is_greedy else self.request.sampling.temperature,
            finish_reason=self.finish_reason or "cancelled",
            started_at=self.submitted_at,
            prefill_seconds=self.prefill_seconds,
            decode_seconds=self.decode_seconds,
            mean_batch_size=self.mean_batch_size,
            lookahead=self.lookahead,
            steps=tuple(self.steps),
            states=_half(features_TK),
            final=_half(final_TH),
            error=self.error,
            parts=self._parts(),
        )

    def _parts(self) -> tuple[Part, ...] | None:
        """What is counted instead of the whole: the control's steps are counted by its blocks."""
        if self.counted_version is not None:
            return (self._chosen(self.counted_version),)
        if not self.control.num_steps:
            return None
        rest = self._rest()
        return (rest,) if rest.num_verify_steps else ()

    def _rest(self) -> Part:
        """All steps but those of the control, each of which committed one token."""
        control, num_correct = self.control, sum(step.num_correct_drafts for step in self.steps)
        num_steps = len(self.steps) - control.num_steps
        return Part(
            version=self.served.version,
            lookahead=self.lookahead,
            mean_batch_size=(self.batch_size_sum - control.batch_size_sum) / max(1, num_steps),
            num_verify_steps=num_steps,
            num_proposed_drafts=sum(len(step.proposed) for step in self.steps),
            num_correct_drafts=num_correct,
            num_accept_tokens=num_steps + num_correct,
            decode_seconds=self.decode_seconds - control.seconds,
            num_plain_steps=sum(not step.proposed for step in self.steps) - control.num_steps,
        )

    def _chosen(self, version: int) -> Part:
        """The counts of what nobody drew for the control: on neither side of the speedup, like those of a pin."""
        return Part(
            version=version,
            lookahead=0,
            mean_batch_size=self.mean_batch_size,
            num_verify_steps=len(self.steps),
            num_proposed_drafts=0,
            num_correct_drafts=0,
            num_accept_tokens=max(0, self.num_cached - len(self.request.prompt)),
            decode_seconds=self.decode_seconds,
            num_plain_steps=len(self.steps),
        )


def _half(states: Tensor | None) -> Tensor | None:
    return None if states is None else states.clamp(-HALF_MAX, HALF_MAX).half()
