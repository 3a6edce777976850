"""The attention that a draft is trained with: causal over its first pass, and over each base's own chain.

Shapes: B rows, heads of width D (kv of them for keys and values), L positions of the first pass, n bases of a row, c
earlier steps of their chains. By ``chain_attention.c`` under the conditions of ``training_rows``, to its tolerance.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aurora_kernels.native import NativeError, library
from aurora_kernels.training_rows import MULTIPLE, is_native, pointers

MASKED = -1e4  # bfloat16 holds it; e^-10000 is 0
MOST_STEPS = 8
WIDEST = 512  # numbers of a head


def chain_attention(
    q: Tensor, k0: Tensor, v0: Tensor, chain_k: Sequence[Tensor], chain_v: Sequence[Tensor], base_Bn: Tensor
) -> Tensor:
    """[B, heads, n, D] in the format of ``v0``: queries [B, heads, n, D] over keys and values [B, kv, L, D] of the
    positions up to ``base_Bn`` [B, n], and over c of the same base, each [B, kv, n, D]."""
    tensors = q, k0, v0, *chain_k, *chain_v
    fits = k0.shape[2] % MULTIPLE == 0 and q.shape[-1] <= WIDEST and len(chain_k) <= MOST_STEPS
    if not (fits and all(is_native(each) for each in tensors)):
        return _by_torch(q, k0, v0, chain_k, chain_v, base_Bn)
    out: Tensor = _ChainAttention.apply(base_Bn.contiguous(), *tensors)  # type: ignore[no-untyped-call]
    return out


def _by_torch(
    q: Tensor, k0: Tensor, v0: Tensor, chain_k: Sequence[Tensor], chain_v: Sequence[Tensor], base_Bn: Tensor
) -> Tensor:
    scale, length, dtype = 1 / math.sqrt(q.shape[-1]), k0.shape[2], v0.dtype
    groups = q.shape[1] // k0.shape[1]
    k0, v0 = k0.repeat_interleave(groups, 1), v0.repeat_interleave(groups, 1)
    q = q.to(dtype)
    future = torch.arange(length, device=q.device)[None, None, None] > base_Bn[:, None, :, None]
    parts = [((q @ k0.to(dtype).mT) * scale).float().masked_fill(future, MASKED)]
    for k in chain_k:
        parts.append(((q * k.to(dtype).repeat_interleave(groups, 1)).sum(-1, keepdim=True) * scale).float())
    weights = torch.softmax(torch.cat(parts, -1), -1).to(dtype)
    attended = weights[..., :length] @ v0
    for i, v in enumerate(chain_v):
        attended = attended + weights[..., length + i : length + i + 1] * v.repeat_interleave(groups, 1)
    return attended


class _ChainAttention(torch.autograd.Function):
    """Queries of one group share keys: [B * kv, group * n, D] in the products of matrices."""

    @staticmethod
    def forward(ctx: Any, base_Bn: Tensor, q: Tensor, k0: Tensor, v0: Tensor, *chain: Tensor) -> Tensor:
        sizes = _sizes(q, k0, chain)
        b, kv, group, n, length, d, c = sizes
        weights = torch.bmm(q.view(b * kv, group * n, d), k0.view(b * kv, length, d).mT)
        shares, room = torch.empty(b * kv * group * n, c), torch.empty(length)
        _kernels().chain_softmax(
            *pointers(weights, q), _addresses(chain[:c]), *pointers(shares, base_Bn, room), *sizes, 1 / math.sqrt(d)
        )
        out = torch.bmm(weights, v0.view(b * kv, length, d)).view(q.shape)
        _kernels().chain_mix(*pointers(out, shares), _addresses(chain[c:]), b, kv, group, n, d, c)
        ctx.save_for_backward(base_Bn, weights, shares, q, k0, v0, *chain)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        base_Bn, weights, shares, q, k0, v0, *chain = ctx.saved_tensors
        sizes = _sizes(q, k0, chain)
        b, kv, _, _, length, d, c = sizes
        grad = grads[0].contiguous()
        d_out, keys, queries = grad.view(b * kv, -1, d), k0.view(b * kv, length, d), q.view(b * kv, -1, d)
        d_v0 = torch.bmm(weights.mT, d_out)
        slope = torch.bmm(d_out, v0.view(b * kv, length, d).mT)
        d_chain, dq = [torch.empty_like(each) for each in chain], torch.empty_like(d_out)
        _kernels().chain_softmax_backward(
            *pointers(weights, slope, q), _addresses(chain[:c]), _addresses(chain[c:]),
            *pointers(shares, grad, base_Bn, dq), _addresses(d_chain[:c]), _addresses(d_chain[c:]),
            *sizes, 1 / math.sqrt(d),
        )  # fmt: skip
        dq = torch.baddbmm(dq, slope, keys)
        d_k0 = torch.bmm(slope.mT, queries)
        return None, dq.view_as(q), d_k0.view_as(k0), d_v0.view_as(v0), *d_chain


def _sizes(q: Tensor, k0: Tensor, chain: Sequence[Tensor]) -> tuple[int, ...]:
    """B, kv, queries of a group, n, L, D, c."""
    b, heads, n, d = q.shape
    kv, length = k0.shape[1:3]
    return b, kv, heads // kv, n, length, d, len(chain) // 2


def _addresses(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * MOST_STEPS)(*pointers(*tensors))


def _kernels() -> ctypes.CDLL:
    found = library()
    assert not isinstance(found, NativeError)
    return found
