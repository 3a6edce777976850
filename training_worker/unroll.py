"""The draft, run as the engine runs it: a chain of its own hidden states from every position at once.

Shapes: B rows, L positions of a row, n chain bases of a row (a subset of its positions), H draft width, K*Ht features.
At depth k the entry of base t embeds token t+1+k at rotary position t+k and predicts token t+2+k. It attends to the
target-feature entries of positions 0..t (depth 0) and to the entries 1..k of its own chain. The tokens fed in are the
real ones, which are the draft's own for as long as its proposals are right; after a wrong one the engine stops too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from speculators.eagle3 import Eagle3Draft
from training_worker.batches import Batch

MASKED = -1e4  # bfloat16 holds it; e^-10000 is 0


@dataclass(frozen=True, slots=True)
class Depth:
    """One depth of the chain: ``out`` [B, n, H] before the final norm, at the bases ``base`` [B, n]."""

    out: Tensor
    base: Tensor


def unroll(draft: Eagle3Draft, embed_VH: Tensor, batch: Batch, bases: list[Tensor]) -> Iterator[Depth]:
    """Depths 0, 1, ...: ``bases[k]`` [B, n] are the positions whose chain goes on to depth k, rising in each row.

    Keys and values of depth 0 cover every position; the rest is computed at the bases only. The bases of a depth must
    be among those of the depth before. Nothing here asks the device for a value, so that a GPU never waits.
    """
    features = batch.features.to(draft.fc.weight.dtype)
    everything = torch.arange(features.shape[1], device=features.device).expand(len(features), -1)
    hidden = draft.fuse(features)
    q, k0, v0 = _project(draft, embed_VH, batch, everything, hidden, 0)
    base = bases[0]
    if base.shape != everything.shape:  # as many rising positions as there are: all of them
        q, hidden = _pick_heads(q, base), _pick(hidden, base)
    chain_k: list[Tensor] = []
    chain_v: list[Tensor] = []
    out = draft.finish(_attend(q, k0, v0, chain_k, chain_v, base).to(hidden.dtype), hidden)
    yield Depth(out, base)
    for depth, chosen in enumerate(bases[1:], start=1):
        place = _places(base, chosen)
        chain_k, chain_v = [_pick_heads(x, place) for x in chain_k], [_pick_heads(x, place) for x in chain_v]
        hidden, base = _pick(out, place), chosen
        q, k, v = _project(draft, embed_VH, batch, base, hidden, depth)
        chain_k.append(k)
        chain_v.append(v)
        out = draft.finish(_attend(q, k0, v0, chain_k, chain_v, base).to(hidden.dtype), hidden)
        yield Depth(out, base)


def _project(
    draft: Eagle3Draft, embed_VH: Tensor, batch: Batch, base_BN: Tensor, hidden_BNH: Tensor, depth: int
) -> tuple[Tensor, Tensor, Tensor]:
    ids = batch.tokens.gather(1, (base_BN + depth).clamp_max(batch.tokens.shape[1] - 1))
    positions = batch.first_state[:, None] + base_BN + depth
    q, k, v = draft.project(embed_VH[ids].to(hidden_BNH.dtype), hidden_BNH, positions)
    groups = draft.config.num_heads // draft.config.num_kv_heads
    return q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)


def _attend(q: Tensor, k0: Tensor, v0: Tensor, chain_k: list[Tensor], chain_v: list[Tensor], base_BN: Tensor) -> Tensor:
    """Attention over the causal part of depth 0 and over the own chain: [B, heads, n, D]."""
    scale = 1 / math.sqrt(q.shape[-1])
    q = q.to(v0.dtype)
    scores = (q @ k0.to(q.dtype).mT) * scale
    future = torch.arange(k0.shape[2], device=q.device)[None, None, None] > base_BN[:, None, :, None]
    parts = [scores.float().masked_fill(future, MASKED)]
    parts += [((q * k.to(q.dtype)).sum(-1, keepdim=True) * scale).float() for k in chain_k]
    weights = torch.softmax(torch.cat(parts, -1), -1).to(v0.dtype)
    length = k0.shape[2]
    attended = weights[..., :length] @ v0
    for i, v in enumerate(chain_v):
        attended = attended + weights[..., length + i : length + i + 1] * v
    return attended


def _places(old_BN: Tensor, new_BN: Tensor) -> Tensor:
    """Where each of the sorted ``new`` bases stands in the sorted ``old`` ones."""
    return torch.searchsorted(old_BN.contiguous(), new_BN.contiguous())


def _pick(x_BNH: Tensor, place_BN: Tensor) -> Tensor:
    return x_BNH.gather(1, place_BN[..., None].expand(-1, -1, x_BNH.shape[-1]))


def _pick_heads(x_BHND: Tensor, place_BN: Tensor) -> Tensor:
    index = place_BN[:, None, :, None].expand(-1, x_BHND.shape[1], -1, x_BHND.shape[-1])
    return x_BHND.gather(2, index)
