"""Attention of the rows of a step over the keys and values of their requests, in a static cache.

By ``attention.c`` where it could be compiled, where a row's result doesn't depend on the rows beside it (bitwise), else
by torch, request by request. Shapes: N rows, H query heads, KV key heads, G = H / KV, D head dim, n keys.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from aurora_kernels.native import NativeError, library
from torch import Tensor

from serving.model.rotary import CausalMasks, Rotary

LANES = 16  # of attention.c, at most
GROUP = 4


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of a batch that belong to one request: positions start .. start + num - 1 in its slot."""

    slot: int
    start: int
    num: int

    @property
    def end(self) -> int:
        return self.start + self.num


@dataclass(frozen=True, slots=True)
class Heads:
    """How a row's numbers [H + 2 KV, D] are divided: queries, keys, values."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


class Rows:
    """The rows of a step, of all its requests one after another; ``where`` [N, 2]: slot and position of each."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = spans
        self.where = torch.tensor([(span.slot, i) for span in spans for i in range(span.start, span.end)])

    def last(self) -> Rows:
        """The last row of each request."""
        return Rows([Span(span.slot, span.end - 1, 1) for span in self.spans])


class KeyValues(Protocol):
    """Keys and values of one layer for every slot; rolling back is not reading past a length."""

    def write(self, qkv: Tensor, rows: Rows) -> Tensor:
        """Rotate queries and keys of [N, (H + 2 KV) D], store keys and values -> queries [N, H, D]."""

    def attend(self, queries: Tensor, rows: Rows) -> Tensor:
        """[N, H, D], each over the keys up to its own position, which must have been written -> [N, H D]."""


def room(*shape: int) -> Tensor:
    """Zeros that take memory only where something has been written: most requests are shorter than the longest one."""
    return torch.from_numpy(np.zeros(shape, np.float32))  # calloc; torch.zeros would touch every page


def key_values(num_slots: int, heads: Heads, rotary: Rotary, masks: CausalMasks) -> KeyValues:
    """The quickest cache of this machine."""
    kernels = library()
    if isinstance(kernels, NativeError) or heads.head_dim % LANES or heads.head_dim > 512:
        return TorchKeyValues(num_slots, heads, rotary, masks)
    return NativeKeyValues(kernels, num_slots, heads, rotary)


class NativeKeyValues:
    """``attention.c``."""

    def __init__(self, kernels: ctypes.CDLL, num_slots: int, heads: Heads, rotary: Rotary) -> None:
        self._kernels = kernels
        self._heads = heads
        self._length = -(-rotary.num_positions // LANES) * LANES
        self._keys = room(num_slots, heads.num_kv_heads, self._length, heads.head_dim)
        self._values = room(num_slots, heads.num_kv_heads, self._length, heads.head_dim)
        self._cosine, self._sine = rotary.tables
        self._scores = torch.empty(GROUP * self._length)

    def write(self, qkv: Tensor, rows: Rows) -> Tensor:
        h = self._heads
        self._kernels.attention_write(
            qkv.data_ptr(), rows.where.data_ptr(), self._keys.data_ptr(), self._values.data_ptr(),
            self._cosine.data_ptr(), self._sine.data_ptr(),
            len(qkv), h.num_heads, h.num_kv_heads, h.head_dim, self._length,
        )  # fmt: skip
        return qkv.view(len(qkv), -1, h.head_dim)[:, : h.num_heads]

    def attend(self, queries: Tensor, rows: Rows) -> Tensor:
        h = self._heads
        out = queries.new_empty(len(queries), h.num_heads * h.head_dim)
        self._kernels.attention_read(
            queries.data_ptr(), queries.stride(0), rows.where.data_ptr(), self._keys.data_ptr(),
            self._values.data_ptr(), out.data_ptr(), self._scores.data_ptr(),
            len(queries), h.num_heads, h.num_kv_heads, h.head_dim, self._length, h.head_dim**-0.5,
        )  # fmt: skip
        return out


class TorchKeyValues:
    """The reference."""

    def __init__(self, num_slots: int, heads: Heads, rotary: Rotary, masks: CausalMasks) -> None:
        self._heads, self._rotary, self._masks = heads, rotary, masks
        self._keys = room(num_slots, heads.num_kv_heads, rotary.num_positions, heads.head_dim)
        self._values = room(num_slots, heads.num_kv_heads, rotary.num_positions, heads.head_dim)

    def write(self, qkv: Tensor, rows: Rows) -> Tensor:
        h = self._heads
        qkv = qkv.view(len(qkv), -1, h.head_dim)
        num_rotated = h.num_heads + h.num_kv_heads
        rotated = self._rotary.rotate(qkv[:, :num_rotated], rows.where[:, 1])
        first = 0
        for span in rows.spans:
            these = slice(first, first + span.num)
            self._keys[span.slot, :, span.start : span.end] = rotated[these, h.num_heads :].transpose(0, 1)
            self._values[span.slot, :, span.start : span.end] = qkv[these, num_rotated:].transpose(0, 1)
            first += span.num
        return rotated[:, : h.num_heads]

    def attend(self, queries: Tensor, rows: Rows) -> Tensor:
        outs, first = [], 0
        for span in rows.spans:
            outs.append(self._attend(queries[first : first + span.num], span))
            first += span.num
        return torch.cat(outs)

    def _attend(self, queries: Tensor, span: Span) -> Tensor:
        """[T, H, D] of one request -> [T, H D]."""
        keys, values = self._keys[span.slot, :, : span.end], self._values[span.slot, :, : span.end]
        num_rows, num_heads, head_dim = queries.shape
        num_kv = keys.shape[0]
        groups = num_heads // num_kv
        grouped = queries.reshape(num_rows, num_kv, groups, head_dim).transpose(0, 1)
        grouped = grouped.reshape(num_kv, num_rows * groups, head_dim)
        mask = self._masks.mask(span.start, span.num).expand(num_kv, -1, -1)
        scores = torch.baddbmm(mask, grouped, keys.mT, alpha=head_dim**-0.5)
        out = torch.bmm(torch.softmax(scores, -1), values)
        return out.view(num_kv, num_rows, groups, head_dim).transpose(0, 1).reshape(num_rows, num_heads * head_dim)
