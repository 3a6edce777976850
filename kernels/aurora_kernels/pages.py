"""Memory for weights that every step reads from front to back: in pages of 2 MiB where the system gives them.

With pages of 4 KiB, 270 MB of weights are 66,000 addresses to look up in every step, more than a processor remembers:
a third of the time of a step for one row (docs/decisions/006-packed-weights-with-fallback.md). A matrix alone is often
smaller than a huge page, so those made one after the other lie in one mapping; it is given back when the last of them
is gone.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from contextlib import suppress

import torch
from torch import Tensor

HUGE = 2 * 2**20
CHUNK = 16 * HUGE  # two or three drafts: so much may stay because of a single matrix
LINE = 64


class Pages:
    """Hands out parts of large mappings; safe to use from several threads."""

    def __init__(self, chunk: int = CHUNK) -> None:
        self._chunk = chunk
        self._lock = threading.Lock()
        self._mapping: mmap.mmap | None = None
        self._at = self._end = 0

    def empty(self, count: int, dtype: torch.dtype) -> Tensor:
        """A tensor [count] of zeros that starts at a cache line."""
        size = max(count, 1) * dtype.itemsize
        with self._lock:
            if self._mapping is None or self._at + size > self._end:
                self._map(max(size, self._chunk))
            mapping, offset = self._mapping, self._at
            self._at += -(-size // LINE) * LINE
        return torch.frombuffer(mapping, dtype=dtype, count=max(count, 1), offset=offset)[:count]

    def _map(self, size: int) -> None:
        """Room for so many bytes from the next huge page on; no page of it exists until it is written."""
        mapping = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(AttributeError, OSError):  # no such pages on this system
            mapping.madvise(mmap.MADV_HUGEPAGE)
        start = -torch.frombuffer(mapping, dtype=torch.uint8).data_ptr() % HUGE
        self._mapping, self._at, self._end = mapping, start, start + size


def give_back_freed() -> None:
    """Let the system have what was freed, as the unpacked copies of weights: malloc alone keeps it for later."""
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


weights = Pages()
