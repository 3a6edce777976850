"""Tensors of the forward pass on their way to host memory, without a wait in the scheduler.

On a GPU the rows are cloned on the forward stream (graph buffers are overwritten by the next replay), copied to pinned
memory on a stream of their own, and an event says when they have arrived: only the writer's thread asks it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

HALF_MAX = 65504.0
# The largest number that bfloat16 and float16 both have: rows are cut as they are, without a copy of them in 32 bits.
BRAIN_MAX = 65280.0


class HostCopy:
    """A tensor that arrives in host memory; ``tensor`` may be read once ``is_ready``."""

    __slots__ = ("_done", "tensor")

    def __init__(self, tensor: Tensor, done: torch.cuda.Event | None = None) -> None:
        self.tensor = tensor
        self._done = done

    @property
    def is_ready(self) -> bool:
        return self._done is None or bool(self._done.query())  # type: ignore[no-untyped-call]

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes


class Copier:
    """Makes host copies for one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = _stream(device)

    def integers(self, *tensors: Tensor) -> HostCopy:
        """All of them flat and one after another, int64."""
        return self._copy(torch.cat([tensor.reshape(-1).to(torch.int64) for tensor in tensors]))

    def states(self, rows: Tensor) -> HostCopy:
        """[n, width] as float16; what float16 cannot hold is cut to the largest value that it shares with the rows'."""
        if rows.dtype == torch.float16:
            return self._copy(rows.clone())
        most = BRAIN_MAX if rows.dtype == torch.bfloat16 else HALF_MAX
        return self._copy(rows.clamp(-most, most).to(torch.float16))

    def _copy(self, staged: Tensor) -> HostCopy:
        if self._stream is None:
            return HostCopy(staged)
        cloned = recorded()
        host = torch.empty(staged.shape, dtype=staged.dtype, pin_memory=True)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(cloned)
            host.copy_(staged, non_blocking=True)
            staged.record_stream(self._stream)  # its memory is free when the copy is done, whoever asks for that
            done = recorded()
        return HostCopy(host, done)


def recorded(*, enable_timing: bool = False) -> torch.cuda.Event:
    """An event behind all that the current stream has been given so far."""
    event = torch.cuda.Event(enable_timing=enable_timing)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]


def stream_of(scheduler: Any) -> Any:
    """A context in which writes to weights queue up between two steps: the forward stream, when there is one."""
    is_overlapped = getattr(scheduler, "enable_overlap", False)
    return scheduler.forward_stream_ctx if is_overlapped else nullcontext()
