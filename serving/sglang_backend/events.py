"""What the scheduler's thread hands over, in the order in which it happened; never more than references and copies.

Shapes: b requests, n nodes per request and step (node 0 is the last bonus token), S = n's depth without the root.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from serving.engine.versions import Served
from serving.sglang_backend.copies import HostCopy, recorded
from serving.sglang_backend.labels import Label


@dataclass(frozen=True, slots=True)
class Origin:
    """A request as it was first seen."""

    label: Label
    temperature: float
    started_at: float


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of one request in a prefill pass."""

    rid: str
    origin: Origin
    start: int  # position of the first row
    num_rows: int
    num_generated: int  # tokens that it had generated: SGLang has retracted it and reads them again
    is_last: bool  # a token comes of this pass, it is not the beginning of a longer read
    is_tail: bool = False  # it runs, and goes on by one token beside the prompts of others (--enable-mixed-chunk)


@dataclass(slots=True)
class Prefill:
    """Prompt states of a batch: ``states`` [rows, K*Ht], ``final`` [rows, Ht]; None when not kept or dropped."""

    spans: tuple[Span, ...]
    states: HostCopy | None = None
    final: HostCopy | None = None
    size: int = 0  # bytes counted against the queue


class Clock:
    """Engine time of one step, the draft's catching-up apart; on a GPU measured there."""

    __slots__ = ("_is_cuda", "_marks")

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Call at the start, before the draft catches up, after it, at the end: 2 or 4 times."""
        self._marks.append(recorded(enable_timing=True) if self._is_cuda else time.perf_counter())

    @property
    def is_ready(self) -> bool:
        return not self._is_cuda or not self._marks or self._marks[-1].query()

    def seconds(self, *, with_catching_up: bool) -> float:
        """Of the step; without the draft's catching-up it is what plain decoding would have taken."""
        marks = self._marks
        total = self._between(marks[0], marks[-1])
        return total if with_catching_up or len(marks) < 4 else total - self._between(marks[1], marks[2])

    def _between(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) / 1e3 if self._is_cuda else float(end - start)


@dataclass(slots=True)
class Step:
    """One verify step of a batch.

    ``integers`` holds, flat: accept_lens [b], accept_index [b, S+1], draft_token [b, n], positions [b, n], and for
    trees next_token [b, n] and next_sibling [b, n]; at the end, after a CUDA graph, how many rows it has copied into
    ``final`` [1]. ``states`` [b*n, K*Ht] has the accepted path first in each block, ``final`` [b*n, Ht] is in node
    order.
    """

    rids: tuple[str, ...]
    num_nodes: int
    depth: int  # S; 0 = decoded without speculation
    is_tree: bool
    is_replayed: bool
    block: int  # of control or of speculation; rises
    clock: Clock
    integers: HostCopy
    states: HostCopy | None = None
    final: HostCopy | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """A request that SGLang has finished; the lists are its own and do not change any more."""

    rid: str
    prompt: Any  # sequence of int
    output: Any  # sequence of int
    reason: str  # "stop" | "length" | "abort"
    at: float


@dataclass(frozen=True, slots=True)
class Gone:
    """A request that SGLang has dropped without a last output."""

    rid: str


@dataclass(frozen=True, slots=True)
class Applied:
    """Other weights are in memory from here on; ``detail`` is set when that is a revert."""

    served: Served[Any]
    min_accept_length: float = 0.0
    detail: str = ""


Event = Prefill | Step | Finish | Gone | Applied
