"""Nothing of ours may end SGLang's scheduler: every hook runs behind this."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

MAX_FAILURES = 20
HOOKS = ("prefill", "step", "extend", "verify", "final", "stream", "request")  # those that capture needs
SILENT_STEPS = 200  # verify steps after which each of them must have fired


class Guard:
    """Counts failures; after MAX_FAILURES the hooks do nothing any more. Times it fires are counted per hook."""

    def __init__(self, max_failures: int = MAX_FAILURES) -> None:
        self.max_failures = max_failures
        self.num_failures = 0
        self.last_failure = ""
        self.fired: dict[str, int] = {}

    @property
    def is_tripped(self) -> bool:
        return self.num_failures >= self.max_failures

    @property
    def problem(self) -> str:
        """Why the hooks do nothing any more; "" while they work."""
        return f"{self.num_failures} failures, the last one in {self.last_failure}" if self.is_tripped else ""

    def silent(self, num_steps: int) -> list[str]:
        """Hooks that have not fired although others have, or although SGLang counts ``num_steps`` verify steps itself.

        A server that is only asked for its health takes none, so prefills prove nothing.
        """
        steps = max(num_steps, self.fired.get("step", 0), self.fired.get("verify", 0))
        return self.not_fired() if steps >= SILENT_STEPS else []

    def not_fired(self) -> list[str]:
        """Hooks that capture needs and that have never fired."""
        return [name for name in HOOKS if not self.fired.get(name)]

    def saw(self, name: str) -> None:
        """A hook of another process has fired: what it leaves has come here."""
        self.fired[name] = self.fired.get(name, 0) + 1

    def run(self, name: str, work: Callable[[], None], *, is_owed: bool = False) -> None:
        """Do ``work``; an exception is counted, and logged as long as they are few, never raised.

        ``is_owed``: SGLang or other ranks count on it, so it is done after too many failures too.
        """
        self.saw(name)
        if self.is_tripped and not is_owed:
            return
        try:
            work()
        except Exception as error:
            self.num_failures += 1
            self.last_failure = f"{name}: {type(error).__name__}: {error}"
            if self.num_failures <= self.max_failures:
                log.exception("hook %s failed (%d of %d); serving goes on", name, self.num_failures, self.max_failures)

    def holds(self, name: str, question: Callable[[], bool], *, is_owed: bool = False) -> bool:
        """The answer; False where asking fails, or is not done any more (``is_owed`` as in ``run``)."""
        found: list[bool] = []
        self.run(name, lambda: found.append(question()), is_owed=is_owed)
        return bool(found and found[0])
