"""Attention of a few rows of one request over its keys in a static cache.

Shapes: T query rows, n keys, G query heads per key head, D head dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of a batch that belong to one request: positions start .. start + num - 1 in its slot."""

    slot: int
    start: int
    num: int

    @property
    def end(self) -> int:
        return self.start + self.num


def room(*shape: int) -> Tensor:
    """Zeros that take memory only where something has been written: most requests are shorter than the longest one."""
    return torch.from_numpy(np.zeros(shape, np.float32))  # calloc; torch.zeros would touch every page


class KeyValues:
    """Keys and values of one layer for every slot; rolling back is not reading past a length."""

    def __init__(self, num_slots: int, num_kv_heads: int, max_len: int, head_dim: int) -> None:
        self._keys = room(num_slots, num_kv_heads, max_len, head_dim)
        self._values = room(num_slots, num_kv_heads, max_len, head_dim)
        self._scale = head_dim**-0.5
        self._no_mask = torch.zeros(())

    def write(self, span: Span, keys: Tensor, values: Tensor) -> None:
        """Store [num, kv_heads, D] at the span's positions."""
        self._keys[span.slot, :, span.start : span.end] = keys.transpose(0, 1)
        self._values[span.slot, :, span.start : span.end] = values.transpose(0, 1)

    def attend(self, span: Span, queries: Tensor, mask: Tensor | None) -> Tensor:
        """[T, heads, D] over the keys 0 .. span.end - 1 -> [T, heads * D]; no mask for a single row."""
        keys, values = self._keys[span.slot, :, : span.end], self._values[span.slot, :, : span.end]
        num_rows, num_heads, head_dim = queries.shape
        num_kv = keys.shape[0]
        groups = num_heads // num_kv
        grouped = queries.view(num_rows, num_kv, groups, head_dim).transpose(0, 1)
        grouped = grouped.reshape(num_kv, num_rows * groups, head_dim)
        added = self._no_mask if mask is None else mask.expand(num_kv, -1, -1)
        scores = torch.baddbmm(added, grouped, keys.mT, beta=0 if mask is None else 1, alpha=self._scale)
        out = torch.bmm(torch.softmax(scores, -1), values)
        return out.view(num_kv, num_rows, groups, head_dim).transpose(0, 1).reshape(num_rows, num_heads * head_dim)
