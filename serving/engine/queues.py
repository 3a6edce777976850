"""What other threads hand to the engine's thread: requests, cancellations and commands between two steps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from serving.engine.api import FinishReason, Request, RequestError


class Submitted(NamedTuple):
    request: Request
    submitted_at: float


class Inbox:
    """Thread-safe; the engine's thread takes, everybody else puts."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests: deque[Submitted] = deque()
        self._commands: deque[Callable[[], None]] = deque()
        self._open: set[str] = set()  # ids submitted and not yet closed
        self._cancelled: dict[str, FinishReason] = {}
        self.is_stopping = False

    @property
    def num_waiting(self) -> int:
        return len(self._requests)

    def submit(self, request: Request, submitted_at: float) -> None:
        """Raises RequestError for an id that is running already, or after the stop."""
        with self._changed:
            if self.is_stopping:
                raise RequestError("the engine is stopping")
            if request.request_id in self._open:
                raise RequestError(f"request_id {request.request_id!r} is running already")
            self._open.add(request.request_id)
            self._requests.append(Submitted(request, submitted_at))
            self._changed.notify()

    def cancel(self, request_id: str, reason: FinishReason) -> None:
        """Harmless for a request that has ended."""
        with self._changed:
            if request_id in self._open:
                self._cancelled[request_id] = reason
                self._changed.notify()

    def call(self, work: Callable[[], Any]) -> Future[Any]:
        """Run ``work`` on the engine's thread between two steps."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001 - belongs to whoever waits for the future
                future.set_exception(error)

        with self._changed:
            if self.is_stopping:
                future.set_exception(RuntimeError("the engine is stopping"))
                return future
            self._commands.append(run)
            self._changed.notify()
        return future

    def stop(self) -> None:
        with self._changed:
            self.is_stopping = True
            self._changed.notify()

    def wait(self, timeout: float) -> None:
        """Sleep until something arrives."""
        with self._changed:
            if not (self._requests or self._commands or self._cancelled or self.is_stopping):
                self._changed.wait(timeout)

    def take_request(self) -> Submitted | None:
        with self._changed:
            return self._requests.popleft() if self._requests else None

    def take_commands(self) -> list[Callable[[], None]]:
        if not self._commands:
            return []
        with self._changed:
            taken, self._commands = list(self._commands), deque()
        return taken

    def take_cancelled(self) -> dict[str, FinishReason]:
        """Cancellations of requests that the engine has begun, and by themselves those that still wait."""
        if not self._cancelled:
            return {}
        with self._changed:
            taken, self._cancelled = self._cancelled, {}
        return taken

    def take_waiting(self, request_ids: dict[str, FinishReason] | None = None) -> list[Submitted]:
        """Remove waiting requests with these ids; None: all of them."""
        with self._changed:
            taken = [s for s in self._requests if request_ids is None or s.request.request_id in request_ids]
            gone = {s.request.request_id for s in taken}
            self._requests = deque(s for s in self._requests if s.request.request_id not in gone)
        return taken

    def close(self, request_id: str) -> None:
        with self._changed:
            self._open.discard(request_id)
            self._cancelled.pop(request_id, None)
