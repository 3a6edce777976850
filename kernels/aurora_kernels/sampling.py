"""What is done with the logits of a row: the greatest, their distribution, a draw. Shapes: N rows, V tokens.

By ``sampling.c`` where it could be compiled, which takes a tenth of torch's time over a large vocabulary. Tolerance
between the two: 1e-6 of a probability, relative; a draw may differ where it falls on the border between two tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aurora_kernels.native import NativeError, library

# Of a softmax. What is asked for below it is greedy: the likeliest token is as good as certain there, and a divided
# logit soon leaves float32.
LEAST_TEMPERATURE = 1e-5


def greatest(x_NV: Tensor) -> list[int]:
    """The place of the greatest number of each row, the first of equals."""
    kernels = library()
    if isinstance(kernels, NativeError) or not _is_plain(x_NV):
        places: list[int] = x_NV.argmax(-1).tolist()
        return places
    found = torch.empty(len(x_NV), dtype=torch.int64)
    kernels.greatest(x_NV.data_ptr(), found.data_ptr(), *x_NV.shape)
    places = found.tolist()
    return places


def softmax(x_NV: Tensor, temperature: float) -> Tensor:
    """Softmax of each row at LEAST_TEMPERATURE or more, [N, V] in float32."""
    assert temperature >= LEAST_TEMPERATURE, temperature
    kernels = library()
    if isinstance(kernels, NativeError) or not _is_plain(x_NV):
        return torch.softmax(x_NV.float() / temperature, -1)
    out = torch.empty_like(x_NV)
    kernels.softmax(x_NV.data_ptr(), out.data_ptr(), *x_NV.shape, temperature)
    return out


def draw(p_V: Tensor, share: float) -> int:
    """The first place at which the sum of ``p_V`` so far exceeds ``share`` of the whole; never one of a 0.

    0 <= share < 1. Sums are in double precision.
    """
    kernels = library()
    if isinstance(kernels, NativeError) or not _is_plain(p_V):
        sums_V = p_V.double().cumsum(-1)
        return min(int(torch.searchsorted(sums_V, share * sums_V[-1], right=True)), int(p_V.nonzero()[-1]))
    place = torch.empty((), dtype=torch.int64)
    kernels.draw(p_V.data_ptr(), place.data_ptr(), len(p_V), share)
    return int(place)


def _is_plain(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.is_contiguous()
