"""Which tensor-parallel ranks run Aurora, and why the others do not.

A command of ours goes out only when every rank takes it up: on a rank without Aurora it would end SGLang's dispatcher,
and where the ranks must agree, the others would wait for that rank's line for ever. So each rank writes that it is
here, or what keeps it away, into the key-value store by which torch's ranks have found each other. That is no
collective: nobody waits for a rank that never writes.
"""

from __future__ import annotations

import time
from typing import Protocol

KEY = "aurora/rank/"
ASKS, AGREED = "aurora/asks/", "aurora/agreed"
HERE = b"here"
AGREE_SECONDS = 60.0  # SGLang itself lets no rank be much later than the others when models are loaded
ASK_AGAIN_SECONDS = 0.05


class Store(Protocol):
    """What is needed of a ``torch.distributed.Store``."""

    def set(self, key: str, value: bytes) -> None: ...
    def check(self, keys: list[str]) -> bool: ...
    def get(self, key: str) -> bytes: ...
    def compare_set(self, key: str, expected: str, desired: str) -> bytes: ...


class RollCall:
    """One rank's view. Without a store the process is alone, and only itself counts."""

    def __init__(self, store: Store | None = None, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self._store = store
        self._own: str | None = None

    def say(self, problem: str = "") -> None:
        """This rank takes commands from now on, or does not because of ``problem``; said again, it replaces."""
        self._own = problem
        if self._store is not None:
            self._store.set(f"{KEY}{self.rank}", f"!{problem}".encode() if problem else HERE)

    def agree(self, most_seconds: float = AGREE_SECONDS) -> bool:
        """Whether every rank has come to ask this; the answer is the same on all that ask.

        The first one who knows decides for all: rank 0 that everybody is there, any rank that another has a problem, or
        is silent for too long, as one without Aurora's variables is.
        """
        if self._store is None:
            return True
        self._store.set(f"{ASKS}{self.rank}", HERE)
        deadline = time.monotonic() + most_seconds
        while not self._store.check([AGREED]):
            if self.rank == 0 and self._store.check([f"{ASKS}{rank}" for rank in range(self.size)]):
                self._store.compare_set(AGREED, "", "yes")
            elif any(self.lines()) or time.monotonic() > deadline:
                self._store.compare_set(AGREED, "", "no")
            else:
                time.sleep(ASK_AGAIN_SECONDS)
        return self._store.get(AGREED) == b"yes"

    def lines(self) -> tuple[str | None, ...]:
        """By rank: "" = here, else what keeps it away; None = it has said nothing."""
        if self._store is None:
            return (self._own,)
        return tuple(self._line(self._store, rank) for rank in range(self.size))

    def _line(self, store: Store, rank: int) -> str | None:
        key = f"{KEY}{rank}"
        if not store.check([key]):
            return None
        said = store.get(key)
        return "" if said == HERE else said[1:].decode()


def of_this_process() -> RollCall:
    """Over the ranks that SGLang has started together."""
    import torch.distributed as ranks
    from torch.distributed import distributed_c10d

    if not ranks.is_initialized():
        return RollCall()
    return RollCall(distributed_c10d._get_default_store(), ranks.get_rank(), ranks.get_world_size())
