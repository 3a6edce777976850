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
from aurora_kernels.sampling import greatest
from torch import Tensor

from serving.draft_runner import DraftRunner
from serving.engine.sequence import Proposal, Sequence
from serving.model.attention import Span, room
from serving.model.decoder import Decoder, States
from speculators import verify


class Verdict(NamedTuple):
    """Outcome of one verify step: how many drafts passed, and the target's token after them."""

    num_correct_drafts: int
    bonus_token: int


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

    def propose(self, group: Many[Sequence], lookaheads: Many[int]) -> list[Proposal]:
        """Up to ``lookaheads[i]`` draft tokens for each request of a group, by the draft that it is bound to."""
        proposals = [Proposal() for _ in group]
        by_draft: dict[DraftRunner, list[int]] = {}
        for i, (sequence, lookahead) in enumerate(zip(group, lookaheads, strict=True)):
            if lookahead > 0 and sequence.served.draft is not None:
                by_draft.setdefault(sequence.served.draft, []).append(i)
        for draft, active in by_draft.items():
            self._draft(draft, group, active, lookaheads, proposals)
        return proposals

    def _draft(
        self,
        draft: DraftRunner,
        group: Many[Sequence],
        active: list[int],
        lookaheads: Many[int],
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
            tokens = self._pick(draft, group, active, guess.logits, proposals)
            going_on = [row for row, i in enumerate(active) if lookaheads[i] > depth + 1]
            if not going_on:
                return
            if len(going_on) < len(active):
                active, tokens = [active[row] for row in going_on], [tokens[row] for row in going_on]
                hidden = guess.hidden[going_on]
            else:
                hidden = guess.hidden
            spans = [Span(group[i].slot, group[i].num_cached + depth, 1) for i in active]
            guess = draft.chain(hidden, torch.tensor(tokens), spans)

    def look(self, sequence: Sequence, num: int) -> list[float]:
        """With which chance first drafts at the ``num`` latest known positions would have passed.

        The request must be bound to a draft, and ``num`` be at most its ``num_watchable``.
        """
        draft, span = sequence.served.draft, sequence.pending_span()
        assert draft is not None
        ids = torch.tensor(sequence.tokens[span.start + 1 : span.end + 1])
        logits_NV = draft.look(self.states.features(span), ids, span, num)
        sequence.num_drafted = sequence.num_cached
        if sequence.is_greedy:
            guesses = draft.to_target(greatest(logits_NV))
            return [float(guess == token) for guess, token in zip(guesses, sequence.tokens[-num:], strict=True)]
        states = self.states.final(Span(span.slot, span.end - num, num))
        q_NV = self._distribution(sequence, self.decoder.logits(states))
        p_NV = self._distribution(sequence, logits_NV)
        passed: list[float] = torch.minimum(p_NV, draft.among_mine(q_NV)).sum(-1).tolist()
        return passed

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
            if sequence.is_greedy:
                verdict = verify.verify_greedy(best[rows], proposal.tokens)
            else:
                q_SV = self._distribution(sequence, logits_NV[rows])
                p_SV = torch.stack(proposal.probabilities) if proposal.tokens else q_SV[:0]
                verdict = verify.verify_sampled(q_SV, p_SV, proposal.tokens, sequence.generator)
            verdicts.append(Verdict(*verdict))
        return verdicts

    def _pick(
        self,
        draft: DraftRunner,
        group: Many[Sequence],
        active: Many[int],
        logits_BV: Tensor,
        proposals: Many[Proposal],
    ) -> list[int]:
        """Choose one draft token for each active request and add it to its proposal."""
        tokens = draft.to_target(greatest(logits_BV))
        for row, i in enumerate(active):
            if not group[i].is_greedy:
                p_V = self._distribution(group[i], logits_BV[row : row + 1])[0]
                p_V = draft.over_target(p_V, self.decoder.config.vocab_size)
                tokens[row] = verify.draw(p_V, group[i].generator)
                proposals[i].probabilities.append(p_V)
            proposals[i].tokens.append(tokens[row])
        return tokens

    @staticmethod
    def _distribution(sequence: Sequence, logits_SV: Tensor) -> Tensor:
        sampling = sequence.request.sampling
        return verify.distribution(logits_SV, sampling.temperature, sampling.top_p)
