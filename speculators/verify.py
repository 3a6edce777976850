"""The verification rule on one page: which drafts are kept, and which token follows them.

Shapes: S steps of a chain (lookahead), V vocabulary. ``q`` is the target's distribution, ``p`` the draft's; row i of
both is the distribution of the token that draft i proposed. After Leviathan et al. 2023 (arXiv 2211.17192).
"""

from __future__ import annotations

import torch
from aurora_kernels import sampling
from torch import Tensor


def verify_greedy(target_ids: list[int], draft_ids: list[int]) -> tuple[int, int]:
    """Keep drafts while they equal the target's argmax.

    ``target_ids`` [S + 1], ``draft_ids`` [S]. Returns (num_correct_drafts, bonus_token).
    """
    num_correct = 0
    while num_correct < len(draft_ids) and draft_ids[num_correct] == target_ids[num_correct]:
        num_correct += 1
    return num_correct, target_ids[num_correct]


def verify_sampled(q_SV: Tensor, p_SV: Tensor, draft_ids: list[int], generator: torch.Generator) -> tuple[int, int]:
    """Keep draft x with probability min(1, q(x) / p(x)); at the first rejection draw from the residual.

    ``q_SV`` [S + 1, V], ``p_SV`` [S, V], both summing to one per row. The committed tokens are distributed exactly
    as if each had been drawn from q. Returns (num_correct_drafts, bonus_token).
    """
    for i, token in enumerate(draft_ids):
        if not is_accepted(float(q_SV[i, token]), float(p_SV[i, token]), uniform(generator)):
            return i, draw(residual(q_SV[i], p_SV[i]), generator)
    return len(draft_ids), draw(q_SV[len(draft_ids)], generator)


def is_accepted(q: float, p: float, u: float) -> bool:
    """The acceptance test for one draft, u uniform in [0, 1). Target prob q, draft prob p."""
    return u * p < q


def residual(q_V: Tensor, p_V: Tensor) -> Tensor:
    """norm(max(q - p, 0)): what the target would have said and the draft under-proposed."""
    difference = (q_V - p_V).clamp_min(0)
    total = difference.sum()
    return difference / total if total > 0 else q_V  # q == p: a rejection is then only rounding


def distribution(logits_SV: Tensor, temperature: float, top_p: float) -> Tensor:
    """Softmax at LEAST_TEMPERATURE or more, cut to the smallest set of tokens whose mass reaches ``top_p``."""
    probabilities = sampling.softmax(logits_SV, temperature)
    if top_p >= 1.0:
        return probabilities
    return torch.stack([_nucleus(p_V, top_p) for p_V in probabilities])


def _nucleus(p_V: Tensor, top_p: float) -> Tensor:
    """A row cut to its likeliest tokens; only those are sorted that can be among them.

    Tokens below (1 - top_p) / V have less than 1 - top_p together, so the others reach ``top_p`` without them. Half of
    that leaves room for rounding.
    """
    places = (p_V >= 0.5 * (1 - top_p) / len(p_V)).nonzero()[:, 0]
    ordered, order = p_V[places].sort(descending=True)
    kept = ordered.where(ordered.cumsum(-1) - ordered < top_p, 0.0)
    return torch.zeros_like(p_V).index_copy_(0, places[order], kept / kept.sum())


def draw(probabilities_V: Tensor, generator: torch.Generator) -> int:
    """One token id by inversion: the first whose cumulative probability exceeds a uniform number."""
    return sampling.draw(probabilities_V, uniform(generator))


def uniform(generator: torch.Generator) -> float:
    """A number in [0, 1)."""
    return float(torch.rand((), generator=generator, dtype=torch.float64))
