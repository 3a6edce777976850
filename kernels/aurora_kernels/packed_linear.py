"""Linear layers whose weight is packed once for oneDNN.

``F.linear`` in fp32 on a CPU repacks the weight on each call when there are several rows, which makes verifying five
tokens cost far more than one. The packing operators are private to torch: where they are missing or refuse, the
plain reference runs. Tolerance against it: 1e-5 relative, since the summation order differs; in bfloat16 1e-2, since
inputs and outputs are rounded to 8 bits of mantissa (sums stay float32).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from aurora_kernels.packed_linear_reference import linear

PACKED_FOR_ROWS = 8  # a verify step of one request and a few drafts


def is_packing_available() -> bool:
    """Whether this build of torch has the private oneDNN operators."""
    return bool(torch._C._has_mkldnn) and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def packable_dtypes() -> set[torch.dtype]:
    """What the operators take on this processor; with AVX2 alone they refuse bfloat16."""
    if not is_packing_available():
        return set()
    return {torch.float32, torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else {torch.float32}


class PackedLinear:
    """y = x W^T + b with W packed at construction; packable_dtypes() on the CPU only, else the reference.

    ``weight`` [out, in], ``bias`` [out] or None; call with x [..., in] -> [..., out] in x's dtype. The product is made
    in the weight's dtype. ``rows``: how many rows the layout is made for; other numbers work too.
    """

    __slots__ = ("_apply",)

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, *, packed: bool | None = None, rows: int = PACKED_FOR_ROWS
    ) -> None:
        if packed is None:
            packed = weight.device.type == "cpu" and weight.dtype in packable_dtypes()
        apply = _packed(weight, bias, rows) if packed else _plain(weight, bias)
        self._apply = apply if weight.dtype == torch.float32 else _cast(apply, weight.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return self._apply(x)


def _cast(apply: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda x: apply(x.to(dtype)).to(x.dtype)


def _packed(weight: Tensor, bias: Tensor | None, rows: int) -> Callable[[Tensor], Tensor]:
    operators = torch.ops.mkldnn
    reordered = operators._reorder_linear_weight(weight.detach().contiguous(), rows)

    def apply(x: Tensor) -> Tensor:
        out: Tensor = operators._linear_pointwise(x, reordered, bias, "none", [], "")
        return out

    return apply


def _plain(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    return lambda x: linear(x, weight, bias)
