"""Exact replay: how many tokens per verify step a draft would have given on traces that it never learnt from.

A greedy trace is replayed exactly: from each step's base the draft's chain is compared with the tokens that follow, and
the next step starts where this one stopped. For a sampled trace the emitted token is known, so a draft passed with
probability min(p, q) / q at that token (the posterior of the verification rule); the coin of each base and depth is
drawn from the trace id, so that two drafts see the same coins. Source of the rule: Leviathan et al. 2023.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from speculators.eagle3 import Eagle3Draft
from speculators.records import DomainScore
from training_worker.batches import BASES_STEP, Example, make_batch, sent
from training_worker.target import Target
from training_worker.unroll import unroll

ROWS_PER_BATCH = 8


@dataclass(frozen=True, slots=True)
class TraceScore:
    """The replay of one trace."""

    domain: str
    num_verify_steps: int
    num_correct_drafts: int
    num_proposed_drafts: int
    num_accept_tokens: int
    loss_sum: float  # nats, of the emitted tokens at depth 0
    num_losses: int
    proposed_by_position: tuple[int, ...]  # [lookahead]
    correct_by_position: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Passes:
    """What a draft would have done from every position that an engine drafts from, of a few traces.

    The first of a trace's n positions is ``start``; the last ones of a short trace mean nothing.
    """

    start: list[int]
    passed: list[list[list[bool]]]  # [row][depth][n]: whether the draft passes, given that those before it did
    losses: Tensor  # [B, n] of depth 0, on the CPU


@torch.no_grad()
def replay(
    draft: Eagle3Draft,
    target: Target,
    examples: Sequence[Example],
    lookahead: int,
    dtype: torch.dtype = torch.float32,
) -> list[TraceScore]:
    """Scores in the order of ``examples``; a trace with fewer than two generated tokens has no step.

    The draft must lie on the target's device. Its products run in ``dtype``, but for those of its head, in float32.
    """
    order = sorted(range(len(examples)), key=lambda i: examples[i].num_positions)
    scores: dict[int, TraceScore] = {}
    for start in range(0, len(order), ROWS_PER_BATCH):
        chosen = order[start : start + ROWS_PER_BATCH]
        part = [examples[i] for i in chosen]
        with torch.autocast(target.device.type, dtype, enabled=dtype != torch.float32):
            passes = _passes(draft, target, part, lookahead)
        for row, i in enumerate(chosen):
            scores[i] = _walk(examples[i], passes, row, lookahead)
    return [scores[i] for i in range(len(examples))]


def _passes(draft: Eagle3Draft, target: Target, examples: Sequence[Example], lookahead: int) -> Passes:
    on_cpu = make_batch(examples, target.device)
    batch = on_cpu.to(target.device, torch.float32)
    length = batch.tokens.shape[1]
    num = min(length, -(-max(e.num_positions - e.first_base for e in examples) // BASES_STEP) * BASES_STEP)
    start = torch.tensor([min(e.first_base, length - num) for e in examples])
    base = sent(start[:, None] + torch.arange(num), target.device)
    emitted, coins = torch.zeros(len(examples), length), torch.zeros(len(examples), num, max(1, lookahead))
    for row, example in enumerate(examples):
        emitted[row, : example.num_positions] = example.emitted
        luck = random.Random(example.source.trace_id)
        coins[row] = torch.tensor([luck.random() for _ in range(coins[row].numel())]).view_as(coins[row])
    emitted, coins, start = (sent(each, target.device) for each in (emitted, coins, start))
    passed = torch.zeros(len(examples), max(1, lookahead), num, dtype=torch.bool, device=target.device)
    losses, ids, bases = torch.zeros(0), draft.target_ids, [base]
    for k, depth in enumerate(unroll(draft, target.embed_VH, batch, bases)):
        with torch.autocast(target.device.type, enabled=False):  # whether two tokens are equally likely hangs on little
            logits = draft.logits(depth.out.float())
        place, at = (depth.base + k + 1).clamp_max(length - 1), depth.base - start[:, None]
        label = batch.tokens.gather(1, place)
        probs = (ids[logits.argmax(-1)] == label).float()
        for row in (on_cpu.temperature > 0).nonzero().flatten().tolist():
            q = emitted[row].gather(0, place[row])
            probs[row] = _posterior(logits[row], q, label[row], ids, float(on_cpu.temperature[row]))
        passes = probs > coins[:, :, k].gather(1, at)
        passed[:, k].scatter_(1, at, passes)
        if k == 0:
            known, slot = _slots(ids, label)
            picked = torch.log_softmax(logits, -1).gather(-1, slot[..., None])[..., 0]
            losses = torch.where(known, -picked, 0.0).cpu()
        if k + 1 < lookahead:
            bases.append(_going_on(depth.base, passes))
    return Passes(start.tolist(), passed.tolist(), losses)


def _going_on(base_BN: Tensor, passes_BN: Tensor) -> Tensor:
    """The bases that passed, and as many others as make the rows equally long: where a chain ends nothing follows."""
    num = min(base_BN.shape[1], -(-max(1, int(passes_BN.sum(1).max())) // BASES_STEP) * BASES_STEP)
    first = (~passes_BN).int().argsort(stable=True, dim=1)[:, :num].sort(1).values
    return base_BN.gather(1, first)


def _posterior(logits_NV: Tensor, q_N: Tensor, label_N: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """min(p, q) / q at the emitted token: [n]."""
    known, slot = _slots(ids, label_N)
    p = torch.softmax(logits_NV / temperature, -1).gather(-1, slot[:, None])[:, 0] * known
    return torch.minimum(p, q_N) / q_N.clamp_min(1e-12)


def _slots(draft_ids: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """(is in the draft's vocabulary, its draft id) of target ids."""
    slot = torch.searchsorted(draft_ids, label).clamp_max(len(draft_ids) - 1)
    return draft_ids[slot] == label, slot


def _walk(example: Example, passes: Passes, row: int, lookahead: int) -> TraceScore:
    """Replay the verify steps of one trace."""
    source, passes_at, start = example.source, passes.passed[row], passes.start[row]
    num_steps = num_correct = num_proposed = 0
    proposed, passed = [0] * lookahead, [0] * lookahead  # by position
    end = len(source.tokens)
    committed = source.prompt_len + 1  # the first generated token comes from the prefill
    while committed < end:
        base = committed - 2 - source.first_state
        if base < 0:  # no states there: a cached prefix
            committed += 1
            continue
        limit = min(lookahead, end - committed - 1)  # the last token of a step is the bonus
        correct = 0
        while correct < limit and passes_at[correct][base - start]:
            correct += 1
        num_steps, num_correct, num_proposed = num_steps + 1, num_correct + correct, num_proposed + limit
        for position in range(limit):
            proposed[position] += 1
            passed[position] += position < correct
        committed += correct + 1
    generated = passes.losses[row, example.first_base - start : example.num_positions - 1 - start]
    return TraceScore(
        source.domain,
        num_steps,
        num_correct,
        num_proposed,
        num_correct + num_steps,
        float(generated.sum()),
        len(generated),
        tuple(proposed),
        tuple(passed),
    )


def by_domain(scores: Sequence[TraceScore], live: Sequence[TraceScore] = ()) -> tuple[DomainScore, ...]:
    """Sum per domain, with the second moments that an interval needs; traces without a step are left out.

    ``live``: the live version's scores of the same traces in the same order; the cross moments then make the interval
    of the gain a paired one.
    """
    others: Sequence[TraceScore | None] = live or [None] * len(scores)
    groups: dict[str, list[tuple[TraceScore, TraceScore | None]]] = {}
    for score, other in zip(scores, others, strict=True):
        if score.num_verify_steps:
            groups.setdefault(score.domain, []).append((score, other))
    return tuple(_paired(_sum(domain, [s for s, _ in group]), group) for domain, group in sorted(groups.items()))


def _sum(domain: str, group: Sequence[TraceScore]) -> DomainScore:
    return DomainScore(
        domain=domain,
        num_traces=len(group),
        num_verify_steps=sum(s.num_verify_steps for s in group),
        num_correct_drafts=sum(s.num_correct_drafts for s in group),
        num_accept_tokens=sum(s.num_accept_tokens for s in group),
        num_proposed_drafts=sum(s.num_proposed_drafts for s in group),
        sum_xx=float(sum(s.num_accept_tokens**2 for s in group)),
        sum_yy=float(sum(s.num_verify_steps**2 for s in group)),
        sum_xy=float(sum(s.num_accept_tokens * s.num_verify_steps for s in group)),
        proposed_by_position=tuple(map(sum, zip(*(s.proposed_by_position for s in group), strict=True))),
        correct_by_position=tuple(map(sum, zip(*(s.correct_by_position for s in group), strict=True))),
    )


def _paired(total: DomainScore, group: Sequence[tuple[TraceScore, TraceScore | None]]) -> DomainScore:
    pairs = [(ours, theirs) for ours, theirs in group if theirs is not None]
    return replace(
        total,
        num_paired=len(pairs),
        sum_xu=float(sum(a.num_accept_tokens * b.num_accept_tokens for a, b in pairs)),
        sum_xv=float(sum(a.num_accept_tokens * b.num_verify_steps for a, b in pairs)),
        sum_yu=float(sum(a.num_verify_steps * b.num_accept_tokens for a, b in pairs)),
        sum_yv=float(sum(a.num_verify_steps * b.num_verify_steps for a, b in pairs)),
    )
