"""The target's hidden states after its last norm, as its logits processor gets them: the trainer's teacher.

SGLang 0.5.21 calls the logits processor in eager passes, and once for every CUDA graph that it captures while its
scheduler is built. A replay calls nothing. So a copy into a buffer of ours, which is there before the first graph and
stays for good, becomes part of every graph, and with it a count of the rows that were copied. Whoever takes the rows of
a replay gets that count too and sets it back: a graph without our copy leaves 0, and its rows are nobody's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)


def is_capturing(hidden_TH: Tensor) -> bool:
    """Whether what is done with this tensor becomes part of a CUDA graph."""
    return hidden_TH.is_cuda and torch.cuda.is_current_stream_capturing()


class FinalStates:
    """Of one pass after another; ``buffer_NH`` has room for the largest graph, None where there are no graphs."""

    def __init__(self, buffer_NH: Tensor | None = None, is_capturing: Callable[[Tensor], bool] = is_capturing) -> None:
        self._buffer = buffer_NH
        self._num_written = None if buffer_NH is None else torch.zeros(1, dtype=torch.int64, device=buffer_NH.device)
        self._is_capturing = is_capturing
        self._eager: Tensor | None = None

    def note(self, hidden_TH: Tensor) -> None:
        """The input of the logits processor: kept in an eager pass, else copied by the graph that is being captured."""
        if self._is_capturing(hidden_TH):
            self._join_graph(hidden_TH)
        else:
            self._eager = hidden_TH

    def note_graph(self, hidden_TH: Tensor) -> None:
        """The same where nobody takes what eager passes leave: those that warm up for a graph."""
        if self._is_capturing(hidden_TH):
            self._join_graph(hidden_TH)

    def _join_graph(self, hidden_TH: Tensor) -> None:
        """Replays copy these rows, if there is room, and count them."""
        buffer, num = self._buffer, len(hidden_TH)
        if buffer is None or self._num_written is None or num > len(buffer) or hidden_TH.shape[1:] != buffer.shape[1:]:
            return
        buffer[:num].copy_(hidden_TH)
        self._num_written.fill_(num)

    def pass_begins(self) -> None:
        """What an earlier eager pass has left, and nobody has taken, is not of this one."""
        self._eager = None

    def eager(self, num_rows: int) -> Tensor | None:
        """The rows of the eager pass that has just run; None when it was none, or had fewer."""
        found, self._eager = self._eager, None
        return None if found is None or len(found) < num_rows else found[:num_rows]

    def replayed(self, num_rows: int) -> tuple[Tensor, Tensor] | None:
        """(rows [num_rows, Ht], rows that were copied [1]) of the graph that has just been replayed, on the device.

        The rows are worth something only where that many were copied; the next replay overwrites them.
        """
        if self._buffer is None or self._num_written is None or num_rows > len(self._buffer):
            return None
        num_written = self._num_written.clone()
        self._num_written.zero_()
        return self._buffer[:num_rows], num_written


def room_for_graphs(worker: Any, steps: list[int]) -> Tensor | None:
    """A buffer for the largest CUDA graph of a verify pass that SGLang will capture; None when it captures none.

    ``worker``: the EAGLEWorkerV2, before it captures; ``steps``: draft steps that are switched between.
    """
    from sglang.srt.runtime_context import get_exec

    graphs = get_exec().graph.cuda_graph_config.decode
    if graphs.backend == "disabled" or not graphs.bs:
        return None
    num_nodes = max([worker.speculative_num_draft_tokens, *(each + 1 for each in steps)])
    model = worker.target_worker.model_config
    size = (max(graphs.bs) * num_nodes, model.hidden_size)
    return torch.zeros(size, dtype=model.dtype, device=worker.target_worker.model_runner.device)
