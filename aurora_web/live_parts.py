"""The server-drawn parts of a page over its socket: what many people watch is made once, and costs no request each.

A socket asks with the query of the parts' own address (``console/parts.py``). For everybody who sees the same there,
one request a second goes through the whole of Django with the cookies of whoever asked first; the others wait for its
answer without a thread or a database connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from functools import cache
from typing import Any

import orjson
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.http import QueryDict

from aurora_web.console.shared import SHARED_PARTS

MOST_ENTRIES = 1000
MOST_QUERY = 4000  # characters
CSRF_FIELD = "csrfmiddlewaretoken"  # belongs to one session: what holds it is for nobody else
PASSED_ON = (b"host", b"cookie", b"user-agent", b"accept-language", b"x-forwarded-for", b"x-forwarded-proto")


class Answers:
    """Frames by key, each made once, good for settings.SHARED_SECONDS from when the making began; one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[Hashable, tuple[float, asyncio.Task[str]]] = {}

    async def get(self, key: Hashable, make: Callable[[], Awaitable[str]]) -> str:
        """What ``make`` gave for this key a moment ago, or gives now; a failure is nobody else's a moment later."""
        now = self._clock()
        began, making = self._entries.get(key, (now, None))
        if making is None or began <= now - settings.SHARED_SECONDS or _has_failed(making):
            if len(self._entries) >= MOST_ENTRIES:
                self._entries = {k: e for k, e in self._entries.items() if e[0] > now - settings.SHARED_SECONDS}
            making = asyncio.ensure_future(make())
            self._entries[key] = now, making
        return await asyncio.shield(making)  # who goes away takes it from nobody


def _has_failed(making: asyncio.Task[str]) -> bool:
    return making.done() and (making.cancelled() or making.exception() is not None)


_answers: dict[int, Answers] = {}


def answers_of_loop() -> Answers:
    """Those of the running event loop."""
    return _answers.setdefault(id(asyncio.get_running_loop()), Answers())


async def frame_of(scope: dict[str, Any], path: str, query: str) -> str:
    """A GET of the parts' address with a socket's cookies: ``{"kind": "parts", "query", "status"}``, with the ``body``
    where the status is 200; 403 for parts that everybody has to ask for alone."""
    found: dict[str, Any] = {"kind": "parts", "query": query, "status": 403}
    if set(QueryDict(query).getlist("part")) <= SHARED_PARTS:
        status, body = await _get(scope, path, query)
        if status != 200:
            found["status"] = status
        elif CSRF_FIELD not in body:
            found |= {"status": 200, "body": body}
    return orjson.dumps(found).decode()


async def _get(scope: dict[str, Any], path: str, query: str) -> tuple[int, str]:
    """Status and text of the page's own address."""
    sent: list[Mapping[str, Any]] = []
    asked = asyncio.Queue[dict[str, Any]]()
    asked.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    request = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https" if scope.get("scheme") == "wss" else "http",
        "path": path,
        "query_string": query.encode(),
        "headers": [(name, value) for name, value in scope.get("headers", ()) if name in PASSED_ON],
        "client": scope.get("client"),
        "server": scope.get("server"),
    }
    await _handler()(request, asked.get, send)
    body = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    return int(sent[0]["status"]), body.decode()


@cache
def _handler() -> ASGIHandler:
    """Django as it answers a browser."""
    return ASGIHandler()
