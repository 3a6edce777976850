"""A part of a draft's vocabulary that stands for all of it in the softmax of one training step.

The tokens that a step is about, and a few of the others, drawn evenly: each of those counts for as many as were not
drawn, so that the sum over all tokens is met on average (importance sampling with an even proposal; Bengio and Senecal
2003, Jean et al., arXiv 1412.2007). The head is half of what a step multiplies, and most rows of it are about tokens
that no teacher of the step thinks of.

Shapes: V draft vocabulary, S candidates, k kept teacher tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

LEAST_TAUGHT = 1e-3  # teacher's probability from which on a token is a candidate for certain
STEP = 512  # S is a multiple: a kernel is made for every new shape


@dataclass(frozen=True, slots=True)
class Candidates:
    """Which tokens, and what each counts for."""

    ids: Tensor  # int64 [S], rising
    place: Tensor  # int64 [V]: where a token stands among ``ids``; -1 = nowhere
    bias: Tensor  # float32 [S]: logarithm of how many tokens it stands for, which is added to its logit

    @classmethod
    def drawn(cls, ids: Tensor, probs: Tensor, size: int, num_drawn: int, generator: torch.Generator) -> Self | None:
        """For teachers ``ids``, ``probs`` [..., k] in a vocabulary of ``size`` tokens, on the CPU.

        At least ``num_drawn`` others, and as many as fill up the last STEP. None where those were half of all tokens.
        """
        is_taught = torch.zeros(size, dtype=torch.bool)
        is_taught[ids[probs >= LEAST_TAUGHT]] = True
        num_taught = int(is_taught.sum())
        num_candidates = -(-(num_taught + num_drawn) // STEP) * STEP
        if num_candidates > size // 2:
            return None
        others = (~is_taught).nonzero()[:, 0]
        drawn = others[torch.randperm(len(others), generator=generator)[: num_candidates - num_taught]]
        is_taught[drawn] = True
        chosen = is_taught.nonzero()[:, 0]
        place = torch.full((size,), -1)
        place[chosen] = torch.arange(len(chosen))
        bias = torch.zeros(len(chosen))
        bias[place[drawn]] = math.log(len(others) / len(drawn))
        return cls(chosen, place, bias)

    def weighted(self, ids: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """(places among the candidates, probabilities) [..., k]; a token that is none has no weight."""
        place = self.place[ids]
        return place.clamp_min(0), probs * (place >= 0)
