"""From traces to padded rows.

A row starts at the trace's first kept state: local position u is token position first_state + u. ``tokens[u]`` is the
token *after* it and ``teacher_*[u]`` the distribution that it came from, so depth k of base t reads ``tokens[t + k]``,
learns ``tokens[t + k + 1]``, and its teacher stands at ``t + k + 1``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from training_worker.config import TraceSource
from training_worker.device import CPU

LENGTH_STEP = 64  # positions
BASES_STEP = 16


class Positioned(Protocol):
    """A trace or its example."""

    @property
    def num_positions(self) -> int: ...


Row = TypeVar("Row", bound=Positioned)


@dataclass(frozen=True, slots=True)
class Teacher:
    """What the target says after each of T positions, on the CPU; k is 0 for a trace that is not learnt from."""

    ids: Tensor  # int32 [T, k]: its most likely tokens, the likeliest first
    probs: Tensor  # float32 [T, k], at temperature 1; rows sum to one, or are zeros where nothing is learnt

    @property
    def num_bytes(self) -> int:
        return self.ids.nbytes + self.probs.nbytes


@dataclass(frozen=True, slots=True)
class Example:
    """One trace, its states and what the target says of them, on the CPU: T = len(tokens) - 1 - first_state."""

    source: TraceSource
    features: Tensor  # float16 [T, K*Ht]
    teacher: Teacher
    emitted: Tensor  # float32 [T]: of the token that came, at the trace's temperature; greedy, or in the prompt: ones

    @property
    def domain(self) -> str:
        return self.source.domain

    @property
    def num_positions(self) -> int:
        return len(self.features)

    @property
    def first_base(self) -> int:
        return self.source.first_base

    @property
    def num_bytes(self) -> int:
        return self.features.nbytes + self.teacher.num_bytes + self.emitted.nbytes


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows of at most L positions; ``length`` says how many are real."""

    features: Tensor  # [B, L, K*Ht]
    teacher_ids: Tensor  # int64 [B, L, k]
    teacher_probs: Tensor  # [B, L, k]
    tokens: Tensor  # int64 [B, L]
    length: Tensor  # int64 [B]
    first_state: Tensor  # int64 [B]
    prompt_len: Tensor  # int64 [B]
    temperature: Tensor  # [B]

    def has_label(self, base_BN: Tensor, depth: int) -> Tensor:
        """Whether the token that depth ``depth`` of a base predicts is in the row: bool [B, n]."""
        return base_BN + depth + 1 < self.length[:, None]

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """The batch on a device, its features in another format."""
        moved = {field.name: sent(getattr(self, field.name), device) for field in fields(self)}
        return Batch(**moved | {"features": moved["features"].to(dtype)})


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; a GPU fetches it in its own time, from memory that it can read."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def make_batch(examples: Sequence[Example], device: torch.device = CPU) -> Batch:
    """Pad examples to the longest, rounded up: a kernel is made for every new shape, so few shapes are fast.

    On the CPU, in memory that ``device`` can read where that is a GPU; features stay float16.
    """
    tokens = [torch.tensor(e.source.tokens[e.source.first_state + 1 :], dtype=torch.int64) for e in examples]
    length = padded(max(len(t) for t in tokens))

    def stack(rows: Sequence[Tensor]) -> Tensor:
        shape = (len(rows), length, *rows[0].shape[1:])
        out = torch.zeros(shape, dtype=rows[0].dtype, pin_memory=device.type == "cuda")
        for i, row in enumerate(rows):
            out[i, : len(row)] = row
        return out

    return Batch(
        features=stack([e.features for e in examples]),
        teacher_ids=stack([e.teacher.ids.long() for e in examples]),
        teacher_probs=stack([e.teacher.probs for e in examples]),
        tokens=stack(tokens),
        length=torch.tensor([len(t) for t in tokens]),
        first_state=torch.tensor([e.source.first_state for e in examples]),
        prompt_len=torch.tensor([e.source.prompt_len for e in examples]),
        temperature=torch.tensor([e.source.temperature for e in examples]),
    )


def padded(length: int) -> int:
    """The next multiple of LENGTH_STEP."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def training_batches(rows: Sequence[Row], max_positions: int, rng: random.Random) -> list[list[Row]]:
    """Batches of equal padded length and at most ``max_positions`` padded positions (but one row at least), in a random
    order. The last batch of a length is filled up with other rows of it."""
    by_length: dict[int, list[Row]] = {}
    for row in rows:
        by_length.setdefault(padded(row.num_positions), []).append(row)
    batches = []
    for length, same in sorted(by_length.items()):
        rng.shuffle(same)
        size = max(1, max_positions // length)
        for start in range(0, len(same), size):
            batch = same[start : start + size]
            missing = size - len(batch)
            batches.append(batch + rng.sample(same[:start], min(missing, start)))
    rng.shuffle(batches)
    return batches


def sample_bases(
    batch: Batch, prompt_share: float, chain_shares: Sequence[float], generator: torch.Generator
) -> tuple[list[Tensor], Tensor]:
    """(bases [B, n] of depth 0, 1, ..., weight [B, L] of a base at each position).

    Depth 0 takes every position that an engine would draft from, and a random share of the prompt's; each further depth
    a random share of the positions of the depth before. Rows with fewer positions are filled up with some of weight 0.
    Drawn on the CPU, from a batch there: every device learns the same positions, and none is asked how many they are.
    """
    rows, length = batch.tokens.shape
    place = torch.arange(length).expand(rows, length)
    is_labelled = place < batch.length[:, None] - 1
    first = (batch.prompt_len - 1 - batch.first_state)[:, None]
    luck = torch.rand(rows, length, generator=generator)
    is_chosen = is_labelled & ((place >= first) | (luck < prompt_share))
    num = min(length, -(-max(1, int(is_chosen.sum(1).max())) // BASES_STEP) * BASES_STEP)
    order = torch.where(is_chosen, place, length + place).argsort(1)[:, :num].sort(1).values
    bases = [order]
    for share in chain_shares:
        count = max(1, round(num * share))
        drawn = torch.rand(bases[-1].shape, generator=generator).argsort(1)[:, :count].sort(1).values
        bases.append(bases[-1].gather(1, drawn))
    return bases, is_chosen.float()
