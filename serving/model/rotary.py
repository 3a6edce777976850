"""Rotary tables and causal masks, made once and sliced in every step.

Shapes: P positions, D head dim, T query rows of one request, n keys, G query heads per key head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from speculators.target_config import RopeScaling

SHORT_ROWS = 32  # query rows up to which masks are slices of one table


class Rotary:
    """``tables``: cos and signed sin [P, D] of Llama's half rotation, x cos + roll(x, D/2) sin_signed."""

    def __init__(self, num_positions: int, head_dim: int, theta: float, scaling: RopeScaling) -> None:
        frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angles = torch.arange(num_positions)[:, None].float() * scaled(frequencies, scaling)
        self.num_positions = num_positions
        self.tables = torch.cat((angles, angles), -1).cos(), torch.cat((-angles.sin(), angles.sin()), -1)
        self._half = head_dim // 2

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate [N, heads, D], of rows at these positions [N]."""
        cos, sin = (table[positions, None] for table in self.tables)
        return torch.addcmul(x * cos, x.roll(self._half, -1), sin)


def scaled(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Frequencies after RoPE scaling; "llama3" as in Llama 3.1 (long waves stretched, the middle blended)."""
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind != "llama3":
        return frequencies
    waves = 2 * math.pi / frequencies
    turns = scaling.original_max_positions / waves
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blended = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    is_long = turns < scaling.low_freq_factor
    is_short = turns > scaling.high_freq_factor
    return torch.where(is_long, frequencies / scaling.factor, torch.where(is_short, frequencies, blended))


class CausalMasks:
    """Additive masks [T * G, n]: row t of a request that starts at ``start`` sees the keys 0 .. start + t."""

    def __init__(self, max_len: int, num_groups: int) -> None:
        self._max_len = max_len
        self._groups = num_groups
        self._table = self._band(SHORT_ROWS, max_len, 2 * max_len)

    def mask(self, start: int, num_rows: int) -> Tensor:
        """The mask for ``num_rows`` rows from position ``start`` on."""
        if num_rows > SHORT_ROWS:
            return self._band(num_rows, start, start + num_rows)
        first = self._max_len - start
        return self._table[: num_rows * self._groups, first : first + start + num_rows]

    def _band(self, num_rows: int, offset: int, width: int) -> Tensor:
        """0 where column <= row + offset, else -inf; every row stands G times."""
        rows = torch.arange(num_rows).repeat_interleave(self._groups)
        is_future = torch.arange(width)[None] > rows[:, None] + offset
        return torch.zeros(is_future.shape).masked_fill_(is_future, -math.inf)
