"""Paged attention of SGLang's CPU backend: one request at a time, fp32 inside."""

from __future__ import annotations

import torch
from torch import Tensor


def _attend(q: Tensor, k: Tensor, v: Tensor, scaling: float, logit_cap: float, mask: Tensor | None) -> Tensor:
    """q [n, heads, d]; k, v [m, kv heads, d]; mask bool [n, m], True = visible -> [n, heads, d]."""
    num, heads, _ = q.shape
    kv_heads = k.shape[1]
    grouped = q.float().view(num, kv_heads, heads // kv_heads, -1)
    scores = torch.einsum("nkgd,mkd->kgnm", grouped, k.float()) * scaling
    if logit_cap and logit_cap > 0:
        scores = logit_cap * torch.tanh(scores / logit_cap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.einsum("kgnm,mkd->nkgd", torch.softmax(scores, dim=-1), v.float()).reshape(num, heads, -1)


def extend_attention(
    q, k, v, o, k_buffer, v_buffer, k_scale, v_scale, req_to_token, req_pool_indices, seq_lens, extend_seq_lens,
    extend_start_loc, max_extend_len, scaling, logit_cap, is_cross_attn=False, sliding_window=0, encoder_lens=None,
    sinks=None, tree_mask=None, is_causal=True,
):  # fmt: skip
    """New rows of each request attend to its whole cache, causally or by its tree; the cache holds them already."""
    assert not is_cross_attn and sinks is None
    mask_start = 0
    rows = zip(
        req_pool_indices.tolist(), seq_lens.tolist(), extend_seq_lens.tolist(), extend_start_loc.tolist(), strict=True
    )
    for request, length, num, start in rows:
        if num <= 0:
            continue
        places = req_to_token[request, :length].long()
        before, mask = length - num, None
        if is_causal and tree_mask is not None:
            tree = tree_mask.view(-1)[mask_start : mask_start + num * num].view(num, num).bool()
            mask = torch.cat([torch.ones(num, before, dtype=torch.bool), tree], dim=1)
            mask_start += num * num
        elif is_causal:
            mask = torch.ones(num, length, dtype=torch.bool).tril(before)
        if mask is not None and sliding_window and sliding_window > 0:
            query = torch.arange(before, length).unsqueeze(1)
            mask &= torch.arange(length).unsqueeze(0) > query - sliding_window
        attended = _attend(q[start : start + num], k_buffer[places], v_buffer[places], scaling, logit_cap, mask)
        o[start : start + num] = attended.to(o.dtype)


def decode_attention(
    q, k_buffer, v_buffer, k_scale, v_scale, o, k, v, loc, attn_logits, req_to_token, req_pool_indices, seq_lens,
    scaling, logit_cap, is_cross_attn=False, sliding_window=0, encoder_lens=None, sinks=None,
):  # fmt: skip
    """One new row per request; its key and value are written into the cache first."""
    assert not is_cross_attn and sinks is None
    if k is not None:
        k_buffer[loc] = k.view(-1, *k_buffer.shape[1:]).to(k_buffer.dtype)
        v_buffer[loc] = v.view(-1, *v_buffer.shape[1:]).to(v_buffer.dtype)
    for row, (request, length) in enumerate(zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)):
        first = max(0, length - sliding_window) if sliding_window and sliding_window > 0 else 0
        places = req_to_token[request, first:length].long()
        attended = _attend(q[row : row + 1], k_buffer[places], v_buffer[places], scaling, logit_cap, None)
        o[row : row + 1] = attended.to(o.dtype)
