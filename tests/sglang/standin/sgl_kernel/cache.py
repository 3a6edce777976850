"""Where tokens lie in the paged cache, before and after a verify step."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor


def assign_req_to_token_pool_cpu(req_pool_indices, req_to_token, start_offset, end_offset, out_cache_loc, pool_len):
    """Write new cache places into the rows of their requests."""
    done = 0
    spans = zip(req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist(), strict=True)
    for request, start, end in spans:
        req_to_token[request, start:end] = out_cache_loc[done : done + end - start].to(req_to_token.dtype)
        done += end - start


def assign_extend_cache_locs_cpu(req_pool_indices, req_to_token, start_offset, end_offset, out_cache_loc, pool_len):
    """Read the places of a span of each request."""
    done = 0
    spans = zip(req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist(), strict=True)
    for request, start, end in spans:
        out_cache_loc[done : done + end - start] = req_to_token[request, start:end].to(out_cache_loc.dtype)
        done += end - start


def assign_draft_cache_locs_contiguous_cpu(
    req_pool_indices, req_to_token, seq_lens, out_cache_loc, pool_len, topk, num_steps
):
    """Read the places that follow each request's tokens: topk * num_steps of them."""
    num = topk * num_steps
    for row, (request, length) in enumerate(zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)):
        found = req_to_token[request, length : length + num]
        out_cache_loc[row * num : (row + 1) * num] = found.to(out_cache_loc.dtype)


def fill_bonus_tokens_cpu(accept_tokens, accept_lens, bonus_tokens, accept_stride):
    """The last accepted token of each request."""
    num = accept_lens.shape[0]
    last = torch.arange(num, dtype=torch.long) * accept_stride + accept_lens.long() - 1
    bonus_tokens[:num] = accept_tokens.reshape(-1)[last].to(bonus_tokens.dtype)


def fill_accept_out_cache_loc_cpu(accept_index, out_cache_loc, accept_out_cache_loc):
    """The places of accepted nodes, in order."""
    flat = accept_index.reshape(-1)
    kept = flat[flat > -1].long()
    accept_out_cache_loc[: kept.numel()] = out_cache_loc[kept].to(accept_out_cache_loc.dtype)


def rotate_input_ids_cpu(input_ids, extend_start_loc, extend_seq_lens, topk_index, select_index=None):
    """Shift each request's tokens left by one and put its new token at the end, or where ``select_index`` says."""
    chosen = None if select_index is None else select_index.reshape(-1).tolist()
    new = topk_index.reshape(-1)
    for row, (start, num) in enumerate(zip(extend_start_loc.tolist(), extend_seq_lens.tolist(), strict=True)):
        if num <= 0:
            continue
        input_ids[start : start + num - 1] = input_ids[start + 1 : start + num].clone()
        input_ids[(start + num - 1) if chosen is None else chosen[row]] = new[row]


def copy_all_layer_kv_cache_cpu(data_ptrs, strides, tgt_loc, src_loc):
    """Move cache entries in every layer; the buffers are given as addresses and bytes per entry."""
    source, destination = src_loc.tolist(), tgt_loc.tolist()
    for address, stride in zip(data_ptrs.tolist(), strides.tolist(), strict=True):
        entries = [ctypes.string_at(address + stride * place, stride) for place in source]
        for place, entry in zip(destination, entries, strict=True):
            ctypes.memmove(address + stride * place, entry, stride)


def build_draft_decode_metadata_cpu(req_to_token, req_pool_indices, seq_lens, topk, num_steps, pool_len) -> Tensor:
    """One row of cache places per branch: the request's tokens, then the branch's own drafts."""
    num = seq_lens.shape[0]
    out = torch.zeros(num * topk, pool_len, dtype=req_to_token.dtype)
    for request_row, (request, length) in enumerate(zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)):
        for branch in range(topk):
            row = out[request_row * topk + branch]
            row[:length] = req_to_token[request, :length]
            start = length + branch * num_steps
            row[length : length + num_steps] = req_to_token[request, start : start + num_steps]
    return out
