"""The training loss of a draft: a soft-target cross-entropy beside the logarithm of acceptance, the head fused in.

Shapes: N positions, H draft width, V draft vocabulary, k kept teacher tokens. The target distribution of a position is
``(1 - token_share) * teacher + token_share * onehot(token)``: forward KL against the target model (up to a constant)
blended with cross-entropy on the token that was emitted. Templated greedy traffic favours the token, real and sampled
text the teacher; a teacher cut to its most likely tokens teaches as well as a whole one. Rejected positions need no
term of their own: there the target puts its mass elsewhere, and the gradient ``softmax(z) - target`` pushes the
rejected proposal down.

A draft too small to imitate its target still imitates everywhere a little; what counts is ``sum(min(p, target))``, the
probability that verification lets its token pass. So most of the loss is minus the logarithm of that, and the
cross-entropy, which has a slope where the two share nothing yet, is the rest (LK losses, arXiv 2602.23881).
"""

from __future__ import annotations

from typing import Any

import torch
from aurora_kernels.training_rows import cross_entropy_
from torch import Tensor
from torch.nn import functional as F

from speculators.candidates import Candidates

LEAST_PROBABILITY = 1e-8


class FusedHeadLoss(torch.autograd.Function):
    """The weighted loss of each position [N]; their plain sum is what is to be differentiated.

    The gradient is made in the forward pass, so that one [N, V] tensor lives at a time and nothing of that size is
    kept. Row weights are applied to the [N, H] sides.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        head_VH: Tensor,
        ids_Nk: Tensor,
        probs_Nk: Tensor,
        weight_N: Tensor,
        acceptance_share: float,
        candidates: Candidates | None,
    ) -> Tensor:
        dtype, bias = hidden_NH.dtype, None
        if candidates is None:
            head = head_VH.to(dtype)
        else:
            head, bias = head_VH.index_select(0, candidates.ids).to(dtype), candidates.bias.to(dtype)
            ids_Nk, probs_Nk = candidates.weighted(ids_Nk, probs_Nk)
        # In that format whatever the caller's autocast: a GPU's makes each softmax float32, twice the memory.
        with torch.autocast(hidden_NH.device.type, enabled=False):
            slope = F.linear(hidden_NH, head, bias)
            losses = weight_N * cross_entropy_(slope, ids_Nk, probs_Nk, LEAST_PROBABILITY, acceptance_share)
            weight = weight_N[:, None].to(dtype)
            ctx.save_for_backward((slope @ head) * weight, slope.mT @ (hidden_NH * weight))
        ctx.head, ctx.candidates = (head_VH.shape, head_VH.dtype), candidates
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None]:
        # On the CPU alone: a GPU would have to finish the whole forward pass to answer.
        is_plain_sum = not grads[0].is_cpu or bool((grads[0] == 1).all())
        assert is_plain_sum, "head_loss: take the plain sum; weights go in as weight_N"
        grad_hidden, grad_head = ctx.saved_tensors
        shape, dtype = ctx.head
        grad_head = grad_head.to(dtype)
        if ctx.candidates is not None:
            grad_head = grad_hidden.new_zeros(shape, dtype=dtype).index_copy_(0, ctx.candidates.ids, grad_head)
        return grad_hidden, grad_head, None, None, None, None, None


def soft_targets(teacher_probs_Nk: Tensor, is_greedy_N: Tensor, token_share: float) -> Tensor:
    """Blend the emitted token into the teacher's probabilities [N, k], most likely first; rows sum to one.

    In greedy traffic the emitted token is the teacher's first; sampled traffic keeps the teacher as it is. Raises
    ValueError for a share outside [0, 1].
    """
    if not 0.0 <= token_share <= 1.0:
        raise ValueError(f"token_share={token_share!r}: must lie between 0 and 1")
    share = token_share * is_greedy_N.float()
    blended = teacher_probs_Nk.float() * (1 - share)[:, None]
    blended[:, 0] += share
    return blended


def head_loss(
    hidden_NH: Tensor,
    head_VH: Tensor,
    ids_Nk: Tensor,
    probs_Nk: Tensor,
    weight_N: Tensor,
    acceptance_share: float = 0.0,
    candidates: Candidates | None = None,
) -> Tensor:
    """Weighted cross-entropies in nats [N] against sparse targets; differentiate their plain sum.

    With ``candidates`` the softmax is taken over those alone, and only their rows of the head have a gradient.

    What the gradient is of: ``(1 - acceptance_share)`` of that sum and ``acceptance_share`` of the weighted sum of
    ``-log sum(min(p, target))``. Matrix products run in the dtype of ``hidden``.
    """
    losses: Tensor = FusedHeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden_NH, head_VH, ids_Nk, probs_Nk, weight_N, acceptance_share, candidates
    )
    return losses
