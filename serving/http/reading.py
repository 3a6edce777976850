"""From the bytes of a body to a request for the engine, on threads of its own: a long prompt takes a while.

JSON, chat templates and tokenisation are work in proportion to what a client sends; on the event loop, all streams and
/health would wait for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.http.errors import ApiError
from serving.http.requests import GenerationRequest, ServedTarget

NUM_THREADS = 2  # a long prompt is not to hold up all others, nor may prompts take the engine's cores

Reader = Callable[[Any, Mapping[str, str], ServedTarget], GenerationRequest]


class Reading:
    """The threads, and how much they have to do. Used on one event loop."""

    def __init__(self) -> None:
        self.num_open = 0  # bodies that are read, or wait for it
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="reading")

    async def read(
        self, read: Reader, body: bytes, headers: Mapping[str, str], target: ServedTarget
    ) -> GenerationRequest:
        """What ``read`` makes of a body. Raises ApiError."""
        self.num_open += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, lambda: read(_json(body), headers, target))
        finally:
            self.num_open -= 1

    def close(self) -> None:
        """Read nothing more; what a thread is at it ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the body is no JSON: {error}") from error
