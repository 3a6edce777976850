"""Plain torch in place of SGLang's compiled CPU kernels: only what 0.5.21 calls for Llama-like targets with EAGLE-3.

Every function writes into the tensors that it is given, as the compiled ones do. Shapes: bs requests, n nodes per
request, topk branches per draft step. Slow and plain on purpose: tests need it to be right.
"""

from __future__ import annotations

import torch

from sgl_kernel.attention import decode_attention, extend_attention
from sgl_kernel.cache import (
    assign_draft_cache_locs_contiguous_cpu,
    assign_extend_cache_locs_cpu,
    assign_req_to_token_pool_cpu,
    build_draft_decode_metadata_cpu,
    copy_all_layer_kv_cache_cpu,
    fill_accept_out_cache_loc_cpu,
    fill_bonus_tokens_cpu,
    rotate_input_ids_cpu,
)
from sgl_kernel.tree import build_tree_kernel_efficient_cpu, verify_tree_greedy_cpu

__version__ = "0.4.10+standin"
__all__ = [
    "assign_draft_cache_locs_contiguous_cpu",
    "assign_extend_cache_locs_cpu",
    "assign_req_to_token_pool_cpu",
    "build_draft_decode_metadata_cpu",
    "build_tree_kernel_efficient_cpu",
    "copy_all_layer_kv_cache_cpu",
    "fill_accept_out_cache_loc_cpu",
    "fill_bonus_tokens_cpu",
    "rotate_input_ids_cpu",
    "verify_tree_greedy_cpu",
]

torch.ops.sgl_kernel.extend_attention_cpu = extend_attention
torch.ops.sgl_kernel.decode_attention_cpu = decode_attention
