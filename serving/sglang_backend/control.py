"""The control: short blocks of verify steps in which a whole batch is decoded without speculation.

SGLang 0.5.21 drafts for a batch as a whole, so no single request can go without; but its adaptive controller switches
the number of draft steps between two verify steps, 0 included, and takes any policy object. This is ours. While a block
without speculation lasts, the draft still catches up with the tokens, so that it drafts as before when the block ends;
that time is measured apart and not charged to the control (docs/decisions/011).
"""

from __future__ import annotations

import logging
import random
from typing import Any

from serving.sglang_backend.guard import Guard

log = logging.getLogger(__name__)

BLOCK_STEPS = 16
LORA = "adapters (--enable-lora) exclude it: SGLang 0.5.21 does not prepare them for another number of draft steps"
APART = "Aurora does not run on all of this server's ranks: see its log"
SEED = 20260211  # the same on every rank: they must draw alike


class ControlPolicy:
    """SGLang's ``AdaptiveSpecPolicy``: 0 steps in control blocks or when speculation is off, else as launched.

    ``inner`` is the policy of a server launched with ``--speculative-adaptive``; it decides outside control blocks.
    All ranks call ``get_steps_for_batch`` once per decoding step, in the same order.
    """

    def __init__(self, num_steps: int, inner: Any = None, guard: Guard | None = None) -> None:
        self.num_steps = num_steps
        self.inner = inner
        self.guard = guard or Guard()
        self.control_share = 0.0
        self.is_speculating = True
        self.is_available = True
        self.block = 0
        self._left = 0
        self._is_control = False
        self._lottery = random.Random(SEED)
        self._graph_sizes: list[int] | None = None

    @property
    def candidate_steps(self) -> list[int]:
        found = {0, self.num_steps} if self.inner is None else {0, *self.inner.candidate_steps}
        return sorted(found)

    def set_cuda_graph_bs(self, cuda_graph_bs: list[int] | None) -> None:
        self._graph_sizes = cuda_graph_bs
        if self.inner is not None:
            self.inner.set_cuda_graph_bs(cuda_graph_bs)

    def cuda_graph_bs_for_step(self, step: int) -> list[int] | None:
        if self.inner is not None and step != 0:
            found: list[int] | None = self.inner.cuda_graph_bs_for_step(step)
            return found
        return self._graph_sizes

    def get_steps_for_batch(self, batch_size: int) -> int:
        """Draft steps of the step that is about to run: on every rank the same, whatever has failed on one of them.

        Ranks that draft apart wait for each other for ever. So it is drawn on, though this rank's other hooks have been
        given up: seed, number of draws, and the share of the last command are those of all ranks.
        """
        if self.guard.holds("control", self._is_plain, is_owed=True):
            return 0
        return self.num_steps if self.inner is None else int(self.inner.get_steps_for_batch(batch_size))

    def _is_plain(self) -> bool:
        """Whether the next step does without drafts: drawn once per block."""
        if self._left == 0:
            self._left = BLOCK_STEPS
            self.block += 1
            self._is_control = self._lottery.random() < self.control_share
        self._left -= 1
        return self._is_control or not self.is_speculating

    def on_verify_complete(self, num_correct_drafts_per_req: list[int], batch_size: int) -> int | None:
        if self.inner is None or self._is_control or not self.is_speculating:
            return None
        found: int | None = self.inner.on_verify_complete(num_correct_drafts_per_req, batch_size)
        return found


def why_none(arguments: Any) -> str:
    """Why a server of these arguments (SGLang's) cannot decode without speculation now and then; "" = it can.

    SGLang has its own list, which it asks where adaptive speculation is on the launch line. That adapters exclude it is
    said elsewhere (``check_lora_speculative_compatibility``): the state for 0 steps would replace what the graphs of
    the verify pass know of their adapters. SGLang's scheduler ends at the next step then, or reads other rows.
    """
    if arguments.enable_lora or arguments.lora_paths:
        return LORA
    from sglang.srt.speculative.adaptive_spec_params import adaptive_unsupported_reason

    return adaptive_unsupported_reason(arguments) or ""


def install(worker: Any, guard: Guard) -> ControlPolicy:
    """Give the worker our policy before it builds its graphs, on all ranks or none; where ``why_none`` is ""."""
    from sglang.srt.speculative.adaptive_runtime_state import AdaptiveController

    if worker.adaptive_controller is not None:
        policy = ControlPolicy(worker.speculative_num_steps, worker.adaptive_controller.params, guard)
        worker.adaptive_controller.params = policy
        return policy

    class Controller(AdaptiveController):  # type: ignore[misc]  # sglang has no types here
        """Ours was not asked for on the launch line: where it cannot be built, the server does without it."""

        def init_states(self, cuda_graph_bs: list[int] | None = None) -> None:
            try:
                super().init_states(cuda_graph_bs)
            except Exception:
                policy.is_available = False
                worker.adaptive_controller = None
                log.exception("no control without speculation on this server: its state could not be built")

    policy = ControlPolicy(worker.speculative_num_steps, guard=guard)
    worker.adaptive_controller = Controller(worker, policy)
    return policy
