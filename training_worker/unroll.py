"""The draft, run as the engine runs it: a chain of its own hidden states from every position at once.

Shapes: B rows, L positions of a row, n chain bases of a row (a subset of its positions), H draft width, K*Ht features.
At depth k the entry of base t embeds token t+1+k at rotary position t+k and predicts token t+2+k. It attends to the
target-feature entries of positions 0..t (depth 0) and to the entries 1..k of its own chain. The tokens fed in are the
real ones, which are the draft's own for as long as its proposals are right; after a wrong one the engine stops too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from aurora_kernels.chain_attention import chain_attention
from torch import Tensor

from speculators.eagle3 import Eagle3Draft
from training_worker.batches import Batch


@dataclass(frozen=True, slots=True)
class Depth:
    """One depth of the chain: ``out`` [B, n, H] before the final norm, at the bases ``base`` [B, n]."""

    out: Tensor
    base: Tensor


def unroll(draft: Eagle3Draft, embed_VH: Tensor, batch: Batch, bases: Iterable[Tensor]) -> Iterator[Depth]:
    """Depths 0, 1, ...: ``bases`` gives the positions [B, n] whose chain goes on to each, rising in each row.

    The next ones are asked for when a depth has been seen.

    Keys and values of depth 0 cover every position; the rest is computed at the bases only. The bases of a depth must
    be among those of the depth before. Nothing here asks the device for a value, so that a GPU never waits.
    """
    features = batch.features.to(draft.fc.weight.dtype)
    everything = torch.arange(features.shape[1], device=features.device).expand(len(features), -1)
    hidden = draft.fuse(features)
    joined = _joined(draft, embed_VH, batch, everything, hidden, 0)
    k0, v0 = draft.keys_values(joined, *_angles(draft, batch, everything, 0))
    rest = iter(bases)
    base = next(rest)
    if base.shape != everything.shape:  # as many rising positions as there are: all of them
        joined, hidden = _pick(joined, base), _pick(hidden, base)
    chain_k: list[Tensor] = []
    chain_v: list[Tensor] = []
    q = draft.queries(joined, *_angles(draft, batch, base, 0))
    out = draft.finish(chain_attention(q, k0, v0, chain_k, chain_v, base).to(hidden.dtype), hidden)
    yield Depth(out, base)
    for depth, chosen in enumerate(rest, start=1):
        hidden = out
        if chosen.shape != base.shape:
            place = _places(base, chosen)
            chain_k, chain_v = [_pick_heads(x, place) for x in chain_k], [_pick_heads(x, place) for x in chain_v]
            hidden, base = _pick(out, place), chosen
        joined, angles = _joined(draft, embed_VH, batch, base, hidden, depth), _angles(draft, batch, base, depth)
        k, v = draft.keys_values(joined, *angles)
        chain_k.append(k)
        chain_v.append(v)
        attended = chain_attention(draft.queries(joined, *angles), k0, v0, chain_k, chain_v, base)
        out = draft.finish(attended.to(hidden.dtype), hidden)
        yield Depth(out, base)


def _joined(
    draft: Eagle3Draft, embed_VH: Tensor, batch: Batch, base_BN: Tensor, hidden_BNH: Tensor, depth: int
) -> Tensor:
    ids = batch.tokens.gather(1, (base_BN + depth).clamp_max(batch.tokens.shape[1] - 1))
    return draft.joined(embed_VH[ids].to(hidden_BNH.dtype), hidden_BNH)


def _angles(draft: Eagle3Draft, batch: Batch, base_BN: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    return draft.rope(batch.first_state[:, None] + base_BN + depth)


def _places(old_BN: Tensor, new_BN: Tensor) -> Tensor:
    """Where each of the sorted ``new`` bases stands in the sorted ``old`` ones."""
    return torch.searchsorted(old_BN.contiguous(), new_BN.contiguous())


def _pick(x_BNH: Tensor, place_BN: Tensor) -> Tensor:
    """Rows at different places of each row of the batch."""
    num, size = x_BNH.shape[1:]
    first_B1 = torch.arange(len(x_BNH), device=x_BNH.device)[:, None] * num
    picked: Tensor = _Pick.apply(x_BNH.reshape(-1, size), (first_B1 + place_BN).flatten())  # type: ignore[no-untyped-call]
    return picked.view(*place_BN.shape, size)


class _Pick(torch.autograd.Function):
    """Different rows: their gradients are put where they came from, while torch's ``gather`` adds them up."""

    @staticmethod
    def forward(ctx: Any, x_NH: Tensor, rows_M: Tensor) -> Tensor:
        ctx.save_for_backward(rows_M)
        ctx.num_rows = len(x_NH)
        return x_NH.index_select(0, rows_M)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (rows_M,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.num_rows, grads[0].shape[1]).index_copy_(0, rows_M, grads[0]), None


def _pick_heads(x_BHND: Tensor, place_BN: Tensor) -> Tensor:
    index = place_BN[:, None, :, None].expand(-1, x_BHND.shape[1], -1, x_BHND.shape[-1])
    return x_BHND.gather(2, index)
