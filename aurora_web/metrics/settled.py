"""Answers of the database that no longer change, kept in this process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

MAX_KEPT_ROWS = 100_000  # some 40 MB


Key = TypeVar("Key", bound=Hashable)


class Settled:
    """Answers that no longer change, those that were asked for last: MAX_KEPT_ROWS rows, each answer one more."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, list[tuple[Any, ...]]] = OrderedDict()
        self._num_rows = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, ask: Callable[[], list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
        """The answer kept for ``key``, or what ``ask`` says; two who ask at once may both do so."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        return self._keep(key, ask())

    def get_each(
        self, name: str, keys: Sequence[Key], ask: Callable[[list[Key]], dict[Key, list[tuple[Any, ...]]]]
    ) -> list[list[tuple[Any, ...]]]:
        """The answers kept for (``name``, key); ``ask`` is given the keys without one, and may leave out empty ones."""
        found: dict[Key, list[tuple[Any, ...]]] = {}
        with self._lock:
            for key in keys:
                if (name, key) in self._kept:
                    self._kept.move_to_end((name, key))
                    found[key] = self._kept[name, key]
        missing = [key for key in keys if key not in found]
        asked = ask(missing) if missing else {}
        for key in missing:
            found[key] = self._keep((name, key), asked.get(key, []))
        return [found[key] for key in keys]

    def _keep(self, key: Hashable, found: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = found
                self._num_rows += len(found) + 1
            while self._num_rows > MAX_KEPT_ROWS:
                self._num_rows -= len(self._kept.popitem(last=False)[1]) + 1
        return found

    def clear(self) -> None:
        """For tests, which begin with another database each."""
        with self._lock:
            self._kept.clear()
            self._num_rows = 0


settled = Settled()
