"""What is done to single rows between two linear layers. Shapes: N rows, H numbers each.

By ``rows.c`` where it could be compiled: torch takes a dozen calls for each of these. Tolerance between the two: 1e-6
relative to the largest number of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from aurora_kernels.native import NativeError, library


def rms_norm(x_NH: Tensor, weight_H: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps), times the weight if there is one; over the last dimension of any shape."""
    kernels = library()
    if isinstance(kernels, NativeError) or x_NH.dtype != torch.float32 or not x_NH.is_contiguous():
        return F.rms_norm(x_NH, x_NH.shape[-1:], weight_H, eps)
    out, size = torch.empty_like(x_NH), x_NH.shape[-1]
    weight = None if weight_H is None else weight_H.data_ptr()
    kernels.rms_norm(x_NH.data_ptr(), weight, out.data_ptr(), x_NH.numel() // size, size, eps)
    return out


def silu_times(both: Tensor) -> Tensor:
    """[N, 2H], gate beside up -> silu(gate) * up, [N, H]."""
    kernels = library()
    if isinstance(kernels, NativeError) or both.dtype != torch.float32 or not both.is_contiguous():
        gate, up = both.chunk(2, -1)
        return F.silu(gate) * up
    num_rows, size = both.shape[0], both.shape[1] // 2
    out = both.new_empty(num_rows, size)
    kernels.silu_times(both.data_ptr(), out.data_ptr(), num_rows, size)
    return out
