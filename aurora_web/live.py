"""Push to browsers: after commit, numbered per group, and never failing or delaying the caller.

One daemon thread per process owns an event loop, so that a Celery task pays for a queue put (0.2 ms) and not for a
new loop and connection (5 ms). When Valkey is down the message is dropped, and a number with it: as soon as Valkey
answers again a nudge follows, so that everybody sees the gap and gets a snapshot. The thread ends before its process
does (``close``): what was put last is sent, and a daemon thread that wakes while the interpreter ends can abort it.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from contextlib import suppress
from typing import Any

import orjson
import redis.asyncio
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import transaction
from redis.exceptions import RedisError

OVERVIEW = "overview"
CONSOLE = 0  # in place of a target: what concerns the console itself
MAX_WAITING = 2000
MAX_AT_ONCE = 50  # messages that are sent as one: those that wait together, like all of one transaction
NUDGE_SECONDS = 1.0  # how often a group that missed something is told so, until it works
CLOSE_SECONDS = 2.0  # how long the end of a process waits for what is not sent yet
NUDGE = "nudge"
log = logging.getLogger(__name__)


def group_of(target_pk: int) -> str:
    """The Channels group of one target."""
    return f"target.{target_pk}"


def sequence_key(group: str) -> str:
    """The Valkey key of a group's last number."""
    return f"aurora.seq.{group}"


def publish(target_pk: int, kind: str, data: dict[str, Any]) -> None:
    """Send ``{"kind", "target", "data", "seq"}`` to the groups ``target.<pk>`` and ``overview`` on commit.

    What is sent is what JSON makes of ``data`` (numbers as keys become text): the layer's own encoding is stricter, and
    one message that it cannot read would close every socket of the group.
    """
    plain = orjson.loads(orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS))
    payload = {"kind": kind, "target": target_pk, "data": plain}
    transaction.on_commit(lambda: _put(payload))


async def next_number(numbers: Any, group: str, num: int = 1, *, is_after_gap: bool = False) -> int:
    """The last of the next ``num`` numbers of a group; after a gap one is left out before them.

    Numbers begin at the clock's milliseconds: when Valkey has lost its data they go on higher up, never again.
    """
    async with numbers.pipeline(transaction=False) as pipe:
        pipe.set(sequence_key(group), int(time.time() * 1000), nx=True)
        pipe.incrby(sequence_key(group), num + is_after_gap)
        return int((await pipe.execute())[1])


async def last_number(numbers: Any, group: str) -> int:
    """The number of a group's last message; where there is none yet, the one before the first."""
    async with numbers.pipeline(transaction=False) as pipe:
        pipe.set(sequence_key(group), int(time.time() * 1000), nx=True)
        pipe.get(sequence_key(group))
        return int((await pipe.execute())[1])


class Sender:
    """A queue and the thread that empties it into the channel layer."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()  # None: the end
        self._num_waiting = 0
        self._missed: set[str] = set()  # groups that a message did not reach
        self._task = self._loop.create_task(self._drain())
        self._thread = threading.Thread(target=self._run, name="live-sender", daemon=True)
        self._thread.start()

    def put(self, payload: dict[str, Any]) -> None:
        if self._num_waiting >= MAX_WAITING:
            self._missed.update(_groups(payload))
            return
        self._num_waiting += 1
        self._loop.call_soon_threadsafe(self._queue.put_nowait, payload)

    def close(self) -> None:
        """Ends the thread when what waits is sent, or after ``CLOSE_SECONDS``; takes nothing more."""
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join(2 * CLOSE_SECONDS)

    def _end(self) -> None:
        self._queue.put_nowait(None)
        self._loop.call_later(CLOSE_SECONDS, self._task.cancel)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _drain(self) -> None:
        async with redis.asyncio.from_url(settings.REDIS_URL) as numbers:
            await self._send_all(numbers)

    async def _send_all(self, numbers: Any) -> None:
        while True:
            try:
                found = [await asyncio.wait_for(self._queue.get(), NUDGE_SECONDS if self._missed else None)]
            except TimeoutError:
                for group in list(self._missed):
                    await self._send(numbers, group, [{"kind": NUDGE, "target": None, "data": {}}])
                continue
            while not self._queue.empty() and len(found) < MAX_AT_ONCE:
                found.append(self._queue.get_nowait())
            payloads = [payload for payload in found if payload is not None]
            self._num_waiting -= len(payloads)
            together: dict[str, list[dict[str, Any]]] = {}
            for payload in payloads:
                for group in _groups(payload):
                    together.setdefault(group, []).append(payload)
            for group, its in together.items():
                await self._send(numbers, group, its)
            if len(payloads) < len(found):
                return

    async def _send(self, numbers: Any, group: str, payloads: list[dict[str, Any]]) -> None:
        kinds = ", ".join(payload["kind"] for payload in payloads)
        try:
            last = await next_number(numbers, group, len(payloads), is_after_gap=group in self._missed)
            numbered = [payload | {"seq": last - len(payloads) + i} for i, payload in enumerate(payloads, 1)]
            await get_channel_layer().group_send(group, {"type": "live.messages", "payloads": numbered})
        except (RedisError, OSError) as error:
            self._missed.add(group)
            log.warning("live messages (%s) to %s dropped: %s", kinds, group, error)
        except Exception:  # the top loop of this thread: one bad message must not end the push
            self._missed.add(group)
            log.exception("live messages (%s) could not be sent", kinds)
        else:
            self._missed.discard(group)


def _groups(payload: dict[str, Any]) -> tuple[str, str]:
    return group_of(payload["target"]), OVERVIEW


_current: Sender | None = None
_lock = threading.Lock()


def _put(payload: dict[str, Any]) -> None:
    global _current
    with _lock:
        if _current is None or _current.pid != os.getpid():  # a forked worker has no thread of its own yet
            _current = Sender()
        _current.put(payload)


def close() -> None:
    """Sends what waits and ends this process's sender; the next message starts another one."""
    global _current
    with _lock:
        sender, _current = _current, None
    if sender is not None and sender.pid == os.getpid():
        sender.close()


atexit.register(close)
