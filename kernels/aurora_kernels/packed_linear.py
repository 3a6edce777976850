"""Linear layers whose weight is packed once, in half the bytes where bfloat16 or float16 holds it.

Decoding reads all weights for a few rows: what it costs is reading them. ``F.linear`` in fp32 repacks the weight on
each call with several rows besides, which makes verifying five tokens cost far more than one. The ways out, best first:

- Weights that bfloat16 holds, on a processor with AMX: ``tile_linear.c``, about as long for 32 rows as for one.
- Weights that bfloat16 or float16 holds: ``half_linear.c``, not much longer for four rows than for one; where it could
  not be compiled torch's FBGEMM for those that float16 holds, to the same bits.
- All others go to oneDNN, in their own dtype.

The first three read half the bytes and make the products in float32, row by row in one order, so that a row's result
doesn't depend on the others (bitwise).

Torch's operators are deprecated or private: where they are missing or refuse, the plain reference runs. Tolerance
against it: 1e-5 relative, since the summation order differs; in bfloat16 1e-2, since inputs and outputs are rounded to
8 bits of mantissa (sums stay float32).
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from aurora_kernels.dtypes import fastest_dtype
from aurora_kernels.native import NativeError, library
from aurora_kernels.packed_linear_reference import linear
from aurora_kernels.pages import weights

PANEL = 32  # outputs that half_linear.c and tile_linear.c keep together,
DEPTH, SIDE = 32, 16  # and inputs and rows of tile_linear.c
PACKED_FOR_ROWS = 8  # a verify step of one request and a few drafts
FLOAT32_ROUNDING = 2.0**-24
Apply = Callable[[Tensor], Tensor]


def is_packing_available() -> bool:
    """Whether this build of torch has the private oneDNN operators."""
    return bool(torch._C._has_mkldnn) and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def is_native() -> bool:
    """Whether the compiled kernels run here."""
    return not isinstance(library(), NativeError)


@cache
def is_tiled() -> bool:
    """Whether the compiled kernels use AMX here."""
    return is_native() and bool(_kernels().tile_linear_available())


@cache
def is_fbgemm_available() -> bool:
    """Whether FBGEMM multiplies packed float16 weights here (x86 with AVX2)."""
    eye, x = torch.eye(8), torch.arange(16.0).view(2, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated; both operators warn once
        try:
            return torch.equal(_fbgemm(eye, None)(x), x)
        except (AttributeError, RuntimeError):
            return False


def is_half_available() -> bool:
    """Whether weights may stay in float16 here while products are made in float32."""
    return is_native() or is_fbgemm_available()


def packable_dtypes() -> set[torch.dtype]:
    """What oneDNN takes packed on this processor; with AVX2 alone it refuses bfloat16."""
    if not is_packing_available():
        return set()
    return {torch.float32, torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else {torch.float32}


def leanest_dtype(device: torch.device) -> torch.dtype:
    """Of weights that may be rounded: float16 where FBGEMM takes it, else what the processor multiplies fastest."""
    return torch.float16 if device.type == "cpu" and is_half_available() else fastest_dtype(device)


class PackedLinear:
    """y = x W^T + b with W packed at construction, on the CPU; elsewhere the reference.

    ``weight`` [out, in], ``bias`` [out] or None; call with x [..., in] -> [..., out] in x's dtype. The product is made
    in the weight's dtype, of a float16 weight in float32. ``packed``: False = the reference. ``rows``: how many rows
    oneDNN's layout is made for; other numbers work too.
    """

    __slots__ = ("_apply",)

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, *, packed: bool = True, rows: int = PACKED_FOR_ROWS
    ) -> None:
        self._apply = _chosen(weight.detach(), bias, rows) if packed else _plain(weight, bias)

    def __call__(self, x: Tensor) -> Tensor:
        return self._apply(x)


def as_bfloat16(weight: Tensor) -> Tensor | None:
    """The same numbers, or None where bfloat16 doesn't hold each of them."""
    rounded = weight.bfloat16()
    return rounded if torch.equal(rounded.float(), weight) else None


def is_held_by_half(weight: Tensor) -> bool:
    """Whether float16 keeps each row of [out, in]: what it loses is less than float32 itself would round."""
    half = weight.half()
    lost = half.float().sub_(weight).norm(dim=1)
    return bool(half.isfinite().all() and (lost <= FLOAT32_ROUNDING * weight.norm(dim=1)).all())


def _chosen(weight: Tensor, bias: Tensor | None, rows: int) -> Apply:
    if weight.device.type != "cpu":
        return _plain(weight, bias)
    if is_native() and weight.dtype == torch.float32 and (same := as_bfloat16(weight)) is not None:
        return tile_linear(_kernels(), same, bias) if is_tiled() else half_linear(_kernels(), same, bias)
    is_half = weight.dtype == torch.float16
    if is_half_available() and (is_half or (weight.dtype == torch.float32 and is_held_by_half(weight))):
        return half_linear(_kernels(), weight.half(), bias) if is_native() else _fbgemm(weight.float(), bias)
    weight = weight.float() if is_half else weight
    apply = _packed(weight, bias, rows) if weight.dtype in packable_dtypes() else _plain(weight, bias)
    return apply if weight.dtype == torch.float32 else _cast(apply, weight.dtype)


def _cast(apply: Apply, dtype: torch.dtype) -> Apply:
    return lambda x: apply(x.to(dtype)).to(x.dtype)


def _kernels() -> ctypes.CDLL:
    found = library()
    if isinstance(found, NativeError):
        raise found
    return found


def tile_linear(kernels: ctypes.CDLL, weight: Tensor, bias: Tensor | None) -> Apply:
    """``tile_linear.c``: weight [out, in], rounded to bfloat16; float32 x [..., in] -> [..., out]."""
    weight = weight.bfloat16().contiguous()
    size_out, size_in = weight.shape
    padded = _up(size_in, DEPTH)
    packed = weights.empty(_up(size_out, PANEL) * padded, torch.bfloat16)
    kernels.tile_linear_pack(weight.data_ptr(), packed.data_ptr(), size_out, size_in)

    def product(x: Tensor, out: Tensor, num_rows: int) -> None:
        parts = torch.empty(3 * _up(num_rows, SIDE) * padded, dtype=torch.bfloat16)
        pointers = (packed.data_ptr(), x.data_ptr(), out.data_ptr(), parts.data_ptr())
        kernels.tile_linear(*pointers, num_rows, size_out, size_in)

    return _checked(product, size_in, size_out, bias)


def half_linear(kernels: ctypes.CDLL, weight: Tensor, bias: Tensor | None) -> Apply:
    """``half_linear.c``: weight [out, in] in float16 or bfloat16; float32 x [..., in] -> [..., out]."""
    name = {torch.float16: "half_linear", torch.bfloat16: "bfloat_linear"}[weight.dtype]
    pack, multiply = getattr(kernels, f"{name}_pack"), getattr(kernels, name)
    weight = weight.contiguous()
    size_out, size_in = weight.shape
    packed = weights.empty(_up(size_out, PANEL) * size_in, weight.dtype)
    pack(weight.data_ptr(), packed.data_ptr(), size_out, size_in)

    def product(x: Tensor, out: Tensor, num_rows: int) -> None:
        multiply(packed.data_ptr(), x.data_ptr(), out.data_ptr(), num_rows, size_out, size_in)

    return _checked(product, size_in, size_out, bias)


def _checked(product: Callable[[Tensor, Tensor, int], None], size_in: int, size_out: int, bias: Tensor | None) -> Apply:
    """``product(x, out, num_rows)`` reads and writes memory by itself: it gets only what it expects."""

    def apply(x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or x.shape[-1] != size_in:
            raise ValueError(f"x is {x.dtype} of {tuple(x.shape)}: must be float32 of [..., {size_in}]")
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], size_out)
        product(x, out, x.numel() // size_in)
        return out if bias is None else out.add_(bias)

    return apply


def _up(number: int, step: int) -> int:
    """The least multiple that is not below."""
    return -(-number // step) * step


def _fbgemm(weight: Tensor, bias: Tensor | None) -> Apply:
    packed = torch.fbgemm_pack_gemm_matrix_fp16(weight.contiguous())
    added = torch.zeros(len(weight)) if bias is None else bias
    return lambda x: torch.fbgemm_linear_fp16_weight_fp32_activation(x, packed, added)


def _packed(weight: Tensor, bias: Tensor | None, rows: int) -> Apply:
    operators = torch.ops.mkldnn
    reordered = operators._reorder_linear_weight(weight.contiguous(), rows)

    def apply(x: Tensor) -> Tensor:
        out: Tensor = operators._linear_pointwise(x, reordered, bias, "none", [], "")
        return out

    return apply


def _plain(weight: Tensor, bias: Tensor | None) -> Apply:
    return lambda x: linear(x, weight, bias)
