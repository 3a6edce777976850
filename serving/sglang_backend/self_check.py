"""Whether capture works, as the console is told: the hooks are there, they fire, and what they see fits the tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from serving.engine.api import FinishedRequest
from serving.sglang_backend.guard import Guard

log = logging.getLogger(__name__)

PROBABLY = "so it is not clear what the hooks see"


class SelfCheck:
    """Of one scheduler process: what is broken once stays so until it is started again.

    ``missing``: what this SGLang lacks. Capture's hooks run behind ``guard``, commands behind ``control_guard``.
    ``problem``: why capture cannot work in this server, known before it starts.
    """

    def __init__(
        self, guard: Guard, control_guard: Guard, missing: Sequence[str], *, is_wanted: bool, problem: str = ""
    ) -> None:
        self.guard = guard
        self.control_guard = control_guard
        self.missing = missing
        self.is_wanted = is_wanted
        self.broken = problem if is_wanted else ""  # why

    @property
    def keeps_traces(self) -> bool:
        """What is shown as broken is not learnt from, whatever of it may be right."""
        return not (self.broken or self.missing)

    def told(self, problem: str) -> None:
        """Capture is broken, unless ``problem`` is ""; the first reason stays."""
        if problem and not self.broken:
            self.broken = problem
            log.error("capture is broken: %s; the server serves on", problem)

    def look_at(self, finished: FinishedRequest) -> None:
        """After a request that took a verify step, every hook must have fired, and its states must fit its tokens."""
        if self.broken or not finished.num_verify_steps:
            return
        self.told(self._silence(self.guard.not_fired()) or self._failures or _misfit(finished))

    def state(self, num_verify_steps: int) -> tuple[str, str]:
        """(state, why) as ObservedState has them; SGLang itself has counted so many verify steps."""
        if self.missing:
            return "broken", f"this SGLang has no {', '.join(self.missing)}"
        # Without one of the hooks no request ever finishes for us, so that there is nothing to look at.
        self.broken = self.broken or self._failures or self._silence(self.guard.silent(num_verify_steps))
        if self.broken:
            return "broken", self.broken
        if not self.is_wanted:
            return "off", "AURORA_CAPTURE=off"
        if self.guard.not_fired():
            return "working", "not seen at work yet: no request has taken a verify step"
        return "working", ""

    @property
    def _failures(self) -> str:
        return self.guard.problem or self.control_guard.problem

    @staticmethod
    def _silence(hooks: Sequence[str]) -> str:
        return f"hooks {', '.join(hooks)} have not fired, {PROBABLY}" if hooks else ""


def _misfit(finished: FinishedRequest) -> str:
    if finished.states is None or finished.final is None:
        return ""
    wanted = len(finished.tokens) - 1 - finished.first_state
    for states in (finished.states, finished.final):
        if len(states) != wanted:
            return f"{len(states)} states for {wanted} positions, {PROBABLY}"
    return ""
