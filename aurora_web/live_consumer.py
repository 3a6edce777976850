"""The browser's end of the push: a snapshot on connect, then numbered deltas, and a snapshot again after a gap."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

import orjson
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.urls import reverse

from aurora_web import live
from aurora_web.accounts.models import User
from aurora_web.accounts.preferences import COOKIE
from aurora_web.live_hub import CHECK_SECONDS, FAILURES, MIN_SECONDS_BETWEEN_SNAPSHOTS, Hub, ended_visits, hub_of
from aurora_web.live_parts import MOST_QUERY, answers_of_loop, frame_of
from aurora_web.registry.models import Target

log = logging.getLogger(__name__)
NOT_SIGNED_IN = 4401
NO_TARGET = 4404
NOT_AVAILABLE = 1013  # try again later
MOST_ASKED = 4  # requests for parts that one browser has open
MAX_WAITING = 100  # frames for a browser that does not take them; then it gets a snapshot instead


class LiveConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]  # channels has no types
    """``/ws/overview`` and ``/ws/targets/<slug>``. Text frames of JSON of four kinds:

    ``{"kind": "snapshot", "target", "data", "seq"}``: everything up to the number ``seq``;
    ``{"kind": "deltas", "from", "seq", "deltas": [{"kind", "target", "data", "seq"}]}``: all that happened from
    ``from`` to ``seq``, without what a later one of the frame replaces. Frames follow each other without a gap: where
    one is found, a snapshot comes instead. A browser may ask for one with ``{"kind": "snapshot"}``;
    ``{"kind": "beat"}``: the line works, though there may be no news; with ``"away"``, "broker" or "database", there
    can be none, and what was sent before is stale until the next snapshot.
    ``{"kind": "parts", "query", "status", "body"}``: the answer to ``{"kind": "parts", "query"}``, which the page of a
    target asks for instead of a GET of its parts' address; without ``body`` the browser has to go there itself.
    """

    channel_layer_alias = ""  # none: the hub listens for all sockets of its group

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """However the connection ends, nothing of it goes on."""
        self.tasks: set[asyncio.Task[None]] = set()
        self.num_asked = 0  # for parts, and not yet answered
        self.hub: Hub | None = None
        try:
            await super().__call__(scope, receive, send)
        finally:
            for task in list(self.tasks):
                task.cancel()
            if self.hub is not None:
                await self.hub.leave(self)

    async def connect(self) -> None:
        await self.accept()  # a close code reaches the browser only after the handshake
        self.seq, self.outbox, self.last_snapshot_at = 0, deque[str](), float("-inf")
        self.sender: asyncio.Task[None] | None = None
        user = self.scope.get("user")
        if not isinstance(user, User):
            await self.close(NOT_SIGNED_IN)
            return
        # The session's key; None where something else than a session let the person in.
        self.visit = user.pk, (self.scope["session"].session_key or "") if "session" in self.scope else None
        if await database_sync_to_async(ended_visits)({self.visit}):
            await self.close(NOT_SIGNED_IN)
            return
        slug = self.scope["url_route"]["kwargs"].get("slug")
        target = await database_sync_to_async(Target.objects.filter(slug=slug).first)() if slug else None
        if slug and target is None:
            await self.close(NO_TARGET)
            return
        self.slug, self.seen_at = slug, float("-inf")
        self.hub = hub_of(live.group_of(target.pk) if target else live.OVERVIEW, target.pk if target else None)
        try:
            await self.hub.enter(self)
        except FAILURES:
            await self.close(NOT_AVAILABLE)

    def offer(self, text: str) -> None:
        """Send this after what was offered before it, without waiting for the browser."""
        if len(self.outbox) >= MAX_WAITING:
            self.outbox.clear()
            self._start(self._snapshot_again())
            return
        self.outbox.append(text)
        if self.sender is None or self.sender.done():
            self.sender = self._start(self._send_all())

    async def _send_all(self) -> None:
        with suppress(OSError):  # the browser has gone: that is told next
            while self.outbox:
                await self.send(text_data=self.outbox.popleft())

    async def end(self) -> None:
        """The session is over."""
        await self.close(NOT_SIGNED_IN)

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            message = orjson.loads(text_data or "")
        except orjson.JSONDecodeError:
            return
        if not isinstance(message, dict) or self.hub is None:
            return
        if message.get("kind") == "snapshot":
            self._start(self._snapshot_again())
        query, is_free = message.get("query"), self.num_asked < MOST_ASKED
        if message.get("kind") == "parts" and self.slug and is_free and isinstance(query, str):
            self._start(self._give_parts(query[:MOST_QUERY]))

    async def _snapshot_again(self) -> None:
        await asyncio.sleep(max(0.0, self.last_snapshot_at + MIN_SECONDS_BETWEEN_SNAPSHOTS - time.monotonic()))
        self.last_snapshot_at = time.monotonic()
        try:
            if self.hub is not None:
                await self.hub.give_snapshot(self)
        except FAILURES as error:
            log.warning("no snapshot for a browser: %s", error)  # it asks again, or the watch finds out

    async def _give_parts(self, query: str) -> None:
        self.num_asked += 1
        try:
            if self.seen_at < time.monotonic() - CHECK_SECONDS:
                self.sees, self.seen_at = await database_sync_to_async(self._seen_alike)(), time.monotonic()
            path = reverse("console:parts", args=[self.slug])
            self.offer(await answers_of_loop().get((path, query, self.sees), lambda: frame_of(self.scope, path, query)))
        except FAILURES as error:
            log.warning("no parts for a browser: %s", error)  # it asks again with the next news
        finally:
            self.num_asked -= 1

    def _seen_alike(self) -> Hashable:
        """Whoever has the same sees the same: what they may do, and the zone that they read in."""
        user = User.objects.get(pk=self.visit[0])
        return user.scopes, user.time_zone, self.scope.get("cookies", {}).get(COOKIE)
