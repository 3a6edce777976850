"""The plain truth beside ``packed_linear``: y = x W^T + b."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x`` [..., in], ``weight`` [out, in], ``bias`` [out] or None -> [..., out]."""
    return F.linear(x, weight, bias)
