"""Which tensor-parallel ranks run Aurora, and why the others do not.

A command of ours goes out only when every rank takes it up: on a rank without Aurora it would end SGLang's dispatcher,
and where the ranks must agree, the others would wait for that rank's line for ever. So each rank writes that it is
here, or what keeps it away, into the key-value store by which torch's ranks have found each other. That is no
collective: nobody waits for a rank that never writes.
"""

from __future__ import annotations

from typing import Protocol

KEY = "aurora/rank/"
HERE = b"here"


class Store(Protocol):
    """What is needed of a ``torch.distributed.Store``."""

    def set(self, key: str, value: bytes) -> None: ...
    def check(self, keys: list[str]) -> bool: ...
    def get(self, key: str) -> bytes: ...


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
