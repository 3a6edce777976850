"""One step of a group of requests: propose with the draft, verify with the target. No threads, no queues.

Requests of a group may be bound to several versions: each drafts with its own, one pass of the target verifies all.
Rows of all requests stand one after another in a batch.
Shapes: N rows, V vocabulary, K*H features.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Many
from typing import NamedTuple

import torch
from aurora_kernels.sampling import greatest, softmax
from torch import Tensor

from serving.draft_runner import DraftRunner
from serving.engine.acceptance import Seen
from serving.engine.drafting import Drafting
from serving.engine.sequence import HeldBack, Proposal, Sequence
from serving.model.attention import Span, room
from serving.model.decoder import Decoder, States
from speculators import verify


class Verdict(NamedTuple):
    """Outcome of one verify step: how many drafts passed, and the target's token after them.

    ``held_back_chance``: that the draft held back behind them would have passed; None = there was none, or one of those
    before it did not pass.
    """

    num_correct_drafts: int
    bonus_token: int
    held_back_chance: float | None


class SlotStates:
    """The target's states of every cached position, per slot: what the draft reads and what a trace keeps."""

    def __init__(self, num_slots: int, max_len: int, num_features: int, hidden_size: int) -> None:
        self._features = room(num_slots, max_len, num_features)
        self._final = room(num_slots, max_len, hidden_size)

    def write(self, spans: Many[Span], states: States) -> None:
        first = 0
        for span in spans:
            self._features[span.slot, span.start : span.end] = states.features[first : first + span.num]
            self._final[span.slot, span.start : span.end] = states.final[first : first + span.num]
            first += span.num

    def features(self, span: Span) -> Tensor:
        """[num, K*H]; a view."""
        return self._features[span.slot, span.start : span.end]

    def final(self, span: Span) -> Tensor:
        """[num, H]; a view."""
        return self._final[span.slot, span.start : span.end]


class Stepper:
    """Target, draft and states of all slots."""

    def __init__(self, decoder: Decoder, num_slots: int) -> None:
        hidden = decoder.config.hidden_size
        self.decoder = decoder
        self.states = SlotStates(num_slots, decoder.max_len, len(decoder.aux_layer_ids) * hidden, hidden)

    def prefill(self, sequence: Sequence, span: Span) -> int | None:
        """Run a part of the prompt; the first generated token when the prompt is through, else None."""
        ids = torch.tensor(sequence.tokens[span.start : span.end])
        states = self.decoder.forward(ids, [span])
        self.states.write([span], states)
        if span.end < len(sequence.tokens):
            return None
        logits = self.decoder.logits(states.final[-1:])
        if sequence.is_greedy:
            return greatest(logits)[0]
        return verify.draw(self._distribution(sequence, logits)[0], sequence.generator)

    def propose(self, group: Many[Sequence], drafting: Drafting) -> list[Proposal]:
        """Draft tokens for each request of a group as ``drafting`` says, by the draft that it is bound to."""
        proposals = [Proposal() for _ in group]
        by_draft: dict[DraftRunner, list[int]] = {}
        for i, (sequence, limit) in enumerate(zip(group, drafting.limits, strict=True)):
            if limit > 0 and sequence.served.draft is not None:
                by_draft.setdefault(sequence.served.draft, []).append(i)
        for draft, active in by_draft.items():
            self._draft(draft, group, active, drafting, proposals)
        return proposals

    def _draft(
        self,
        draft: DraftRunner,
        group: Many[Sequence],
        active: list[int],
        drafting: Drafting,
        proposals: Many[Proposal],
    ) -> None:
        """Fill the proposals of the requests ``active`` of a group, all bound to ``draft``."""
        spans = [group[i].pending_span() for i in active]
        features = [self.states.features(span) for span in spans]
        ids = [token for i, s in zip(active, spans, strict=True) for token in group[i].tokens[s.start + 1 : s.end + 1]]
        guess = draft.extend(features[0] if len(features) == 1 else torch.cat(features), torch.tensor(ids), spans)
        for i in active:
            group[i].num_drafted = group[i].num_cached
        for depth in itertools.count():
            sure = confidences(guess.logits)
            through = drafting.lets_through(depth, active, sure)
            for i, confidence in zip(active, sure, strict=True):
                proposals[i].confidences.append(confidence)
            self._pick(draft, group, active, through, guess.logits, proposals)
            on = [row for row, has_drafted in enumerate(through) if has_drafted]
            going = drafting.going_on(depth + 1, [active[row] for row in on])
            on = [row for row, goes_on in zip(on, going, strict=True) if goes_on]
            if not on:
                return
            hidden = guess.hidden if len(on) == len(active) else guess.hidden[on]
            active = [active[row] for row in on]
            spans = [Span(group[i].slot, group[i].num_cached + depth, 1) for i in active]
            guess = draft.chain(hidden, torch.tensor([proposals[i].tokens[-1] for i in active]), spans)

    def look(self, sequence: Sequence, num: int) -> list[Seen]:
        """Of first drafts at the ``num`` latest known positions: how sure, and the chance that they would have passed.

        The request must be bound to a draft, and ``num`` be at most its ``num_watchable``.
        """
        draft, span = sequence.served.draft, sequence.pending_span()
        assert draft is not None
        ids = torch.tensor(sequence.tokens[span.start + 1 : span.end + 1])
        logits_NV = draft.look(self.states.features(span), ids, span, num)
        sequence.num_drafted = sequence.num_cached
        sure = confidences(logits_NV)
        if sequence.is_greedy:
            guesses = draft.to_target(greatest(logits_NV))
            passed = [float(guess == token) for guess, token in zip(guesses, sequence.tokens[-num:], strict=True)]
        else:
            states = self.states.final(Span(span.slot, span.end - num, num))
            q_NV = self._distribution(sequence, self.decoder.logits(states))
            passed = _in_common(draft, self._distribution(sequence, logits_NV), q_NV)
        return list(zip(sure, passed, strict=True))

    def verify(self, group: Many[Sequence], proposals: Many[Proposal]) -> list[Verdict]:
        """One pass of the target over every request's last token and drafts."""
        spans = [s.verify_span(len(p.tokens)) for s, p in zip(group, proposals, strict=True)]
        ids = [t for s, p in zip(group, proposals, strict=True) for t in (s.tokens[-1], *p.tokens)]
        states = self.decoder.forward(torch.tensor(ids), spans)
        self.states.write(spans, states)
        logits_NV = self.decoder.logits(states.final)
        best = greatest(logits_NV)
        verdicts, first = [], 0
        for sequence, proposal, span in zip(group, proposals, spans, strict=True):
            rows = slice(first, first + span.num)
            first += span.num
            verdicts.append(self._verdict(sequence, proposal, best[rows], logits_NV[rows]))
        return verdicts

    def _verdict(self, sequence: Sequence, proposal: Proposal, best_S: list[int], logits_SV: Tensor) -> Verdict:
        held_back, chance = proposal.held_back, None
        if sequence.is_greedy:
            num_correct, bonus = verify.verify_greedy(best_S, proposal.tokens)
            if held_back is not None and num_correct == len(proposal.tokens):
                chance = float(held_back.token == bonus)
            return Verdict(num_correct, bonus, chance)
        q_SV = self._distribution(sequence, logits_SV)
        p_SV = torch.stack(proposal.probabilities) if proposal.tokens else q_SV[:0]
        num_correct, bonus = verify.verify_sampled(q_SV, p_SV, proposal.tokens, sequence.generator)
        draft, is_reached = sequence.served.draft, num_correct == len(proposal.tokens)
        if is_reached and draft is not None and held_back is not None and held_back.distribution is not None:
            [chance] = _in_common(draft, held_back.distribution[None], q_SV[-1:])
        return Verdict(num_correct, bonus, chance)

    def _pick(
        self,
        draft: DraftRunner,
        group: Many[Sequence],
        active: Many[int],
        through: Many[bool],
        logits_BV: Tensor,
        proposals: Many[Proposal],
    ) -> None:
        """Choose a draft token for each active request, and add it to its proposal where it is let ``through``."""
        tokens = draft.to_target(greatest(logits_BV))
        for row, (i, is_verified) in enumerate(zip(active, through, strict=True)):
            token, p_V = tokens[row], None
            if not group[i].is_greedy:
                p_V = self._distribution(group[i], logits_BV[row : row + 1])[0]
            if not is_verified:
                proposals[i].held_back = HeldBack(token, p_V)
                continue
            if p_V is not None:
                p_V = draft.over_target(p_V, self.decoder.config.vocab_size)
                token = verify.draw(p_V, group[i].generator)
                proposals[i].probabilities.append(p_V)
            proposals[i].tokens.append(token)

    @staticmethod
    def _distribution(sequence: Sequence, logits_SV: Tensor) -> Tensor:
        sampling = sequence.request.sampling
        return verify.distribution(logits_SV, sampling.temperature, sampling.top_p)


def confidences(logits_BV: Tensor) -> list[float]:
    """How sure a draft is of its guesses: the probability of the likeliest one at temperature 1."""
    sure: list[float] = softmax(logits_BV, 1.0).amax(-1).tolist()
    return sure


def _in_common(draft: DraftRunner, p_NV: Tensor, q_NV: Tensor) -> list[float]:
    """The chance that a draft from p (over the draft's vocabulary) passes where the target says q."""
    chances: list[float] = torch.minimum(p_NV, draft.among_mine(q_NV)).sum(-1).tolist()
    return chances
