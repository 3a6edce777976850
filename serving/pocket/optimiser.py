"""Muon on the matrices, AdamW on the embedding and the norms, and the warm-up / stable / decay schedule."""

import torch

from serving.pocket.model import Target
from speculators.optimiser import Muon

MUON_RATE = 0.01
EMBEDDING_RATE = 1e-2
NORM_RATE = 3e-3


def make_optimisers(target: Target) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices inside the layers, AdamW for the rest; `base_lr` is kept in every group."""
    matrices = [p for p in target.model.layers.parameters() if p.ndim == 2]
    groups = [
        {"params": [target.model.embed_tokens.weight], "lr": EMBEDDING_RATE},
        {"params": [p for p in target.parameters() if p.ndim == 1], "lr": NORM_RATE},
    ]
    optimisers = (
        Muon(matrices, MUON_RATE),
        torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    )
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["base_lr"] = group["lr"]
    return optimisers


def rate_factor(step: int, progress: float, warmup_steps: int = 40, decay_share: float = 0.3) -> float:
    """Learning-rate factor in [0, 1]: linear warm-up in steps, 1, then linear to 0 over the last share of the time."""
    warm = min(1.0, (step + 1) / warmup_steps)
    return warm * min(1.0, max(0.0, (1.0 - progress) / decay_share))
