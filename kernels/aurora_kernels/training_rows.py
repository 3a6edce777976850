"""What a training step does to single rows between its products of matrices. Shapes: N rows, H numbers each.

In bfloat16 on a CPU by ``training_rows.c`` where it could be compiled, else by torch, which takes a dozen passes over
memory for each of these, and as many for its gradient. Tolerance between the two: 1e-2 relative to the largest number
of a row, that is one rounding to bfloat16 instead of several.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aurora_kernels.native import NativeError, library

MULTIPLE = 16  # of numbers in a row, else torch does it


def rms_norm(x: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, over the last dimension of any shape; in the format of ``x``."""
    if not is_native(x) or weight_H.dtype != torch.float32:
        return F.rms_norm(x, x.shape[-1:], weight_H.to(x.dtype), eps)
    out: Tensor = _RMSNorm.apply(x, weight_H, eps)  # type: ignore[no-untyped-call]
    return out


def silu_times(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of two tensors of one shape."""
    if not (is_native(gate) and is_native(up)):
        return F.silu(gate) * up
    out: Tensor = _SiluTimes.apply(gate, up)  # type: ignore[no-untyped-call]
    return out


def rotated(x_BTHD: Tensor, cos_BTR: Tensor, sin_BTR: Tensor) -> Tensor:
    """[B, T, heads, D] -> [B, heads, T, D], each head's halves turned by the angles of R = D / 2 pairs; no copy of the
    angles takes part in the gradient."""
    if not is_native(x_BTHD) or cos_BTR.shape[-1] % MULTIPLE:
        low, high = x_BTHD.transpose(1, 2).chunk(2, -1)
        cos, sin = cos_BTR[:, None], sin_BTR[:, None]
        return torch.cat((low * cos - high * sin, high * cos + low * sin), -1).to(x_BTHD.dtype)
    out: Tensor = _Rotated.apply(x_BTHD, cos_BTR, sin_BTR)  # type: ignore[no-untyped-call]
    return out


def cross_entropy_(
    logits_NV: Tensor, ids_Nk: Tensor, target_Nk: Tensor, least: float, acceptance_share: float = 0.0
) -> Tensor:
    """Turn logits into a loss's slope in place; returns the cross-entropies [N] in float32, whatever the share.

    The loss is ``(1 - acceptance_share) * cross-entropy - acceptance_share * log(acceptance)``, of which acceptance is
    ``sum(min(p, target))`` over the ids with p = softmax(logits). The target is what k ids are worth, which may repeat:
    then they are compared with p one by one. Probabilities below ``least`` count as that much.
    """
    if not is_native(logits_NV):
        torch.softmax(logits_NV, -1, out=logits_NV)
        known = logits_NV.gather(1, ids_Nk).float()
        losses = -(target_Nk * known.clamp_min(least).log()).sum(-1)
        accepted = torch.minimum(known, target_Nk).sum(-1, keepdim=True) + least
        raised = acceptance_share * torch.where(known < target_Nk, known, 0.0) / accepted
        logits_NV.mul_((1 - acceptance_share + raised.sum(-1, keepdim=True)).to(logits_NV.dtype))
        wanted = (1 - acceptance_share) * target_Nk + raised
        logits_NV.scatter_add_(1, ids_Nk, -wanted.to(logits_NV.dtype))
        return losses
    ids, target = ids_Nk.contiguous(), target_Nk.float().contiguous()
    losses, room = torch.empty(len(ids)), torch.empty(logits_NV.shape[1])
    sizes = *logits_NV.shape, ids.shape[1]
    _kernels().cross_entropy(*pointers(logits_NV, ids, target, losses, room), *sizes, least, acceptance_share)
    return losses


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_H: Tensor, eps: float) -> Tensor:
        size = x.shape[-1]
        out, scales, weight = torch.empty_like(x), torch.empty(x.numel() // size), weight_H.detach().contiguous()
        _kernels().rms_norm_forward(*pointers(x, weight, out, scales), len(scales), size, eps)
        ctx.save_for_backward(x, weight, scales)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scales = ctx.saved_tensors
        grad, dx, d_weight = grads[0].contiguous(), torch.empty_like(x), torch.zeros_like(weight)
        sizes = len(scales), len(weight)
        _kernels().rms_norm_backward(*pointers(x, weight, scales, grad, dx, d_weight), *sizes)
        return dx, d_weight, None


class _SiluTimes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        out = torch.empty_like(gate)
        _kernels().silu_times_forward(*pointers(gate, up, out), out.numel())
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad, d_gate, d_up = grads[0].contiguous(), torch.empty_like(gate), torch.empty_like(up)
        _kernels().silu_times_backward(*pointers(gate, up, grad, d_gate, d_up), grad.numel())
        return d_gate, d_up


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTHD: Tensor, cos_BTR: Tensor, sin_BTR: Tensor) -> Tensor:
        b, t, heads, d = x_BTHD.shape
        cos, sin = cos_BTR.contiguous(), sin_BTR.contiguous()
        out = x_BTHD.new_empty(b, heads, t, d)
        _kernels().rotate(*pointers(x_BTHD, cos, sin, out), b, t, heads, d, 0)
        ctx.save_for_backward(cos, sin)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad = grads[0].contiguous()
        b, heads, t, d = grad.shape
        out = grad.new_empty(b, t, heads, d)
        _kernels().rotate(*pointers(grad, *ctx.saved_tensors, out), b, t, heads, d, 1)
        return out, None, None


def is_native(x: Tensor) -> bool:
    """Whether the kernels in C can read this tensor."""
    is_readable = x.is_cpu and x.dtype == torch.bfloat16 and x.is_contiguous() and x.shape[-1] % MULTIPLE == 0
    return is_readable and x.numel() > 0 and not isinstance(library(), NativeError)


def pointers(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _kernels() -> ctypes.CDLL:
    found = library()
    assert not isinstance(found, NativeError)
    return found
