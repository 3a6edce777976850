"""Muon: momentum, orthogonalised by a quintic Newton-Schulz iteration (K. Jordan, 2024), for matrices inside layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from aurora_kernels.dtypes import fastest_dtype
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices_NRC: Tensor, num_steps: int) -> Tensor:
    """Approximate the nearest orthogonal matrix of each of [N, R, C] with R <= C, in bfloat16 where that is fast.

    Each step multiplies X by aI + bG + cG^2 with G = X X^T. All of them are polynomials of the first G, so that only
    [R, R] matrices are multiplied in between: half of the time where C is 2 to 3 times R.
    """
    a, b, c = COEFFICIENTS
    x = matrices_NRC.to(fastest_dtype(matrices_NRC.device))
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram, product = x @ x.mT, None
    for step in range(num_steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if step < num_steps - 1:
            gram = factor @ (gram @ factor)
    orthogonal: Tensor = (x if product is None else product @ x).float()
    return orthogonal


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, over matrices grouped by shape so that each shape is one batched call."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, num_steps: int = 4) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "num_steps": num_steps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for same in by_shape.values():
                self._step_shape(same, group)

    def _step_shape(self, params: list[nn.Parameter], group: dict[str, Any]) -> None:
        updates = []
        for parameter in params:
            assert parameter.grad is not None
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
            updates.append(parameter.grad.lerp(state["momentum"], group["momentum"]))
        stacked = torch.stack(updates)
        rows, columns = stacked.shape[-2:]
        tall = rows > columns
        stacked = orthogonalise(stacked.mT if tall else stacked, group["num_steps"])
        scale = max(1.0, rows / columns) ** 0.5
        for parameter, update in zip(params, stacked.mT if tall else stacked, strict=True):
            parameter.add_(update, alpha=-group["lr"] * scale)
