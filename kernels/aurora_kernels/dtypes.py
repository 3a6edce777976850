"""Which number format a processor multiplies fastest."""

from __future__ import annotations

import platform
from functools import cache

import torch


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Of matrix products: bfloat16 on a GPU and on a CPU that multiplies it itself, else float32.

    A CPU without such instructions computes the same numbers, up to 70 times slower than in float32 (AVX2).
    """
    return torch.bfloat16 if device.type != "cpu" or _is_bfloat16_native() else torch.float32


@cache
def _is_bfloat16_native() -> bool:
    if platform.machine().lower() in ("x86_64", "amd64"):
        # torch's own question would also say yes to AVX-512 without bfloat16, where oneDNN emulates it.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch._C._has_mkldnn) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
