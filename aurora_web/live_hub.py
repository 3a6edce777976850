"""What all sockets of one process on one group share: the subscription, the order, the frames, the snapshot, the watch.

A message is decoded, ordered and encoded once per process, however many browsers look on. Whatever the traffic, a page
gets at most ten frames a second: what comes in between goes into one frame, and of what replaces itself (a replica's
report, the trainer's progress) only the last is kept. While no news can be heard, the beats say of what.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
import redis.asyncio
from channels.db import database_sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.models import Session
from django.db import Error as DatabaseError
from django.utils import timezone
from redis.exceptions import RedisError

from aurora_web import live
from aurora_web.accounts import scopes
from aurora_web.accounts.models import User
from aurora_web.live_sources import LATE_SECONDS, Source, database_of_loop
from aurora_web.registry.models import Target
from aurora_web.snapshots import overview_snapshot, target_snapshot

log = logging.getLogger(__name__)
# A frame that follows a quiet moment goes out at once: 4 in a row, 5 a second after them, and one with the parts that a
# page has asked for, are 10 a second at most.
FRAMES_PER_SECOND = 5
FRAMES_AT_ONCE = 4
GAP_SECONDS = 0.04  # between two frames: what happens together comes in a burst of messages
PATIENCE_SECONDS = 0.05  # for so long what comes again and again waits for something else to go with
HOLE_SECONDS = 0.15  # a number that is missing may be on its way for so long, since senders may overtake
LOOK_SECONDS = 0.01
SNAPSHOT_SECONDS = 1.0  # for so long one snapshot serves everybody who comes, when nothing has happened since
MIN_SECONDS_BETWEEN_SNAPSHOTS = 0.5
BEAT_SECONDS = 5.0  # a browser that hears nothing for longer than two beats knows that the line is cut
CHECK_SECONDS = 15.0  # how soon an ended session, or a message that was never heard of, is noticed
IN_FLIGHT_SECONDS = 1.0  # a message that has its number is heard of by then, or never
MAX_DELTAS = 200  # more at once are answered with a snapshot
TURN = 200  # sockets that are served before others of the event loop have their turn
FAILURES = (RedisError, OSError, DatabaseError)
Message = dict[str, Any]  # {"kind", "target", "data", "seq"}
Visit = tuple[int, str | None]  # a person, and the key of the session (None = let in by something else)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A page's state up to the number ``seq``, as it is sent."""

    seq: int
    text: str
    made_at: float


class Pace:
    """When the next frame may go out."""

    def __init__(self) -> None:
        self._paid_until = float("-inf")  # by then the frames so far would have gone out one by one
        self._last = float("-inf")

    @property
    def wait_seconds(self) -> float:
        ahead = (FRAMES_AT_ONCE - 1) / FRAMES_PER_SECOND
        return max(0.0, max(self._paid_until - ahead, self._last + GAP_SECONDS) - time.monotonic())

    def count(self) -> None:
        """A frame goes out now."""
        self._last = time.monotonic()
        self._paid_until = max(self._paid_until, self._last) + 1 / FRAMES_PER_SECOND


class Member(Protocol):
    """A socket."""

    seq: int  # the last number that its browser knows of, or will when everything offered is sent
    visit: Visit

    def offer(self, text: str) -> None: ...
    async def end(self) -> None: ...


class Hub:
    """One group in one event loop; begins with its first member and ends with its last."""

    def __init__(self, group: str, target_pk: int | None) -> None:
        self.group, self.target_pk = group, target_pk
        self.members: set[Member] = set()
        self.num_guests = 0  # members, and those who are about to be
        self.seq = 0  # of the last frame
        self.inbox: list[Message] = []
        self.news = asyncio.Event()  # something came that is not patient
        self.recent: deque[Message] = deque(maxlen=MAX_DELTAS)  # of the last frames, without a gap
        self.turn = asyncio.Lock()  # a snapshot for all and a frame must not overtake each other
        self.pace = Pace()
        self.resynced_at = float("-inf")
        self.snapshot: Snapshot | None = None
        self.making: asyncio.Task[Snapshot] | None = None
        self.flusher: asyncio.Task[None] | None = None
        self.broker, self.database = Source(), database_of_loop()
        self.away = ""  # "broker" or "database": nothing that was sent after it went away is fresh
        self.echo: asyncio.Task[None] | None = None
        self.recovery: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.started = self._task(self._start())

    # --- coming and going

    async def _start(self) -> None:
        layer = get_channel_layer()
        self.channel = await layer.new_channel()
        await layer.group_add(self.group, self.channel)
        self.seq = await last_number(self.group)
        self._task(self._listen())
        self._task(self._watch())
        self._task(self._beat())

    async def enter(self, member: Member) -> None:
        """A snapshot, and from then on every frame. Raises one of FAILURES."""
        await asyncio.shield(self.started)
        await self.give_snapshot(member)
        self.members.add(member)

    async def give_snapshot(self, member: Member) -> None:
        """The state now, and what has happened since it was read; nothing in between is missed."""
        found = await self._recent_snapshot()
        member.seq = found.seq
        member.offer(found.text)
        missed = [message for message in self.recent if message["seq"] > found.seq]
        if missed:
            member.offer(frame(missed))
            member.seq = missed[-1]["seq"]
        if self.away:
            member.offer(beat(self.away))

    async def leave(self, member: Member) -> None:
        """The last one ends the subscription too."""
        self.members.discard(member)
        self.num_guests -= 1
        if self.num_guests:
            return
        if _hubs.get(_key(self.group)) is self:  # not the one that has taken the place of one that never began
            del _hubs[_key(self.group)]
        ending = list(self.tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        try:
            await get_channel_layer().group_discard(self.group, self.channel)
        except (AttributeError, RedisError, OSError):
            return  # it never began, or the membership ends with the connection

    def _task(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    # --- deltas

    async def _listen(self) -> None:
        layer = get_channel_layer()
        while True:
            event = await layer.receive(self.channel)
            self.broker.answered()
            if not event["payloads"]:  # the echo
                continue
            self.inbox.extend(event["payloads"])
            if not all(map(is_patient, event["payloads"])):
                self.news.set()
            if self.flusher is None or self.flusher.done():
                self.flusher = self._task(self._flush())

    async def _flush(self) -> None:
        """Send what has come in; a hole is given some time to fill."""
        hole_until: float | None = None
        while self.inbox:
            if hole_until is None and all(map(is_patient, self.inbox)):
                await self._company()
            await asyncio.sleep(self.pace.wait_seconds)
            async with self.turn:
                self.inbox = sorted((m for m in self.inbox if m["seq"] > self.seq), key=lambda m: int(m["seq"]))
                if not self.inbox:
                    return
                if self._is_whole():
                    self.pace.count()
                    await self._send_frame()
                    hole_until = None
                    continue
            if hole_until is None:
                hole_until = time.monotonic() + HOLE_SECONDS
            if time.monotonic() < hole_until:
                await asyncio.sleep(LOOK_SECONDS)
            else:
                await self._resync()
                hole_until = None

    async def _company(self) -> None:
        """Wait for news to go with, as long as patience lasts."""
        self.news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.news.wait()

    def _is_whole(self) -> bool:
        numbers = [message["seq"] for message in self.inbox]
        return len(numbers) <= MAX_DELTAS and numbers == list(range(self.seq + 1, self.seq + 1 + len(numbers)))

    async def _send_frame(self) -> None:
        messages, self.inbox = self.inbox, []
        before, self.seq = self.seq, messages[-1]["seq"]
        self.recent.extend(messages)
        text = frame(messages)
        for i, member in enumerate(list(self.members), 1):
            if member.seq == before:
                member.offer(text)
            elif member.seq < self.seq:  # its snapshot is of the middle of this frame
                member.offer(frame([m for m in messages if m["seq"] > member.seq]))
            member.seq = max(member.seq, self.seq)
            if i % TURN == 0:
                await asyncio.sleep(0)

    # --- snapshots

    async def _resync(self) -> bool:
        """Something was missed: everybody gets a snapshot. False where none could be made."""
        await asyncio.sleep(max(0.0, self.resynced_at + MIN_SECONDS_BETWEEN_SNAPSHOTS - time.monotonic()))
        self.resynced_at = time.monotonic()
        try:
            async with self.turn:
                self.snapshot = found = await self._make()
                self.seq = found.seq
                self.recent.clear()
                for member in list(self.members):
                    member.seq = found.seq
                    member.offer(found.text)
        except FAILURES as error:
            log.warning("no snapshot for %s: %s", self.group, error)  # the watch tries again
            return False
        return True

    async def _recent_snapshot(self) -> Snapshot:
        """One that knows of everything that was sent by now; who comes while one is being made shares it."""
        known_by_now, found = self.seq, self.snapshot
        for _ in range(2):  # the first may have been begun too early
            if found and found.seq >= known_by_now and time.monotonic() - found.made_at < SNAPSHOT_SECONDS:
                break
            if self.making is None or self.making.done():
                self.making = self._task(self._make())
            self.snapshot = found = await asyncio.shield(self.making)
        assert found is not None
        return found

    async def _make(self) -> Snapshot:
        made_at = time.monotonic()
        seq = await last_number(self.group)  # read before the rows: what happens in between arrives as a delta
        data = await database_sync_to_async(_state)(self.target_pk)
        payload = {"kind": "snapshot", "target": self.target_pk, "data": data, "seq": seq}
        return Snapshot(seq, orjson.dumps(payload).decode(), made_at)

    # --- the watch

    async def _beat(self) -> None:
        """The line works; and whether news would be heard."""
        while True:
            self.database.ask()
            if self.echo is None or self.echo.done():
                self.echo = self._task(self._send_echo())
            await asyncio.sleep(BEAT_SECONDS)
            self._look()
            for member in list(self.members):
                member.offer(beat(self.away))

    async def _send_echo(self) -> None:
        """No message at all, to everybody of the group: who hears it would hear news."""
        self.broker.asked()
        with suppress(*FAILURES):
            async with asyncio.timeout(LATE_SECONDS):
                await get_channel_layer().group_send(self.group, {"type": "live.messages", "payloads": []})

    def _look(self) -> None:
        """Note who is silent; when all answer again, what is shown is fresh with the next snapshot."""
        away = "broker" if self.broker.is_silent else "database" if self.database.is_silent else ""
        if away and away != self.away:
            log.warning("no news for %s: the %s does not answer", self.group, away)
        if away:
            self.away = away
        elif self.away and (self.recovery is None or self.recovery.done()):
            self.recovery = self._task(self._recover())

    async def _recover(self) -> None:
        if await self._resync():
            self.away = ""
            log.info("news for %s again", self.group)

    async def _watch(self) -> None:
        """Close sockets whose session has ended; send snapshots when something was never heard of."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                ended = await database_sync_to_async(ended_visits)({member.visit for member in self.members})
                for member in [each for each in self.members if each.visit in ended]:
                    await member.end()
                before = self.seq
                if await last_number(self.group) == before:
                    continue
                await asyncio.sleep(IN_FLIGHT_SECONDS)
                if self.seq == before and not self.inbox:
                    await self._resync()
            except FAILURES as error:
                log.warning("live watch of %s: %s", self.group, error)


_hubs: dict[tuple[int, str], Hub] = {}


def _key(group: str) -> tuple[int, str]:
    return id(asyncio.get_running_loop()), group


def hub_of(group: str, target_pk: int | None) -> Hub:
    """The group's hub in this event loop; whoever asks has to leave it."""
    hub = _hubs.get(_key(group))
    if hub is None or (hub.started.done() and (hub.started.cancelled() or hub.started.exception())):
        hub = _hubs[_key(group)] = Hub(group, target_pk)
    hub.num_guests += 1
    return hub


def _state(target_pk: int | None) -> dict[str, Any]:
    return overview_snapshot() if target_pk is None else target_snapshot(Target.objects.get(pk=target_pk))


def ended_visits(visits: Iterable[Visit]) -> set[Visit]:
    """Those whose person may not read any more, or whose session is over or of an old password; two queries."""
    asked = set(visits)
    users = User.objects.filter(is_active=True).in_bulk({pk for pk, _ in asked})
    keys = {key for _, key in asked if key is not None}
    running = Session.objects.filter(session_key__in=keys, expire_date__gt=timezone.now())
    sessions = {row.session_key: row.get_decoded() for row in running}
    return {visit for visit in asked if not _goes_on(users.get(visit[0]), visit[1], sessions)}


def _goes_on(user: User | None, key: str | None, sessions: dict[str, dict[str, Any]]) -> bool:
    if user is None or not scopes.allows(user.scopes, scopes.READ):
        return False
    if key is None:
        return True
    session = sessions.get(key, {})
    is_theirs = session.get(SESSION_KEY) == str(user.pk)
    return is_theirs and session.get(HASH_SESSION_KEY) == user.get_session_auth_hash()


def frame(messages: Sequence[Message]) -> str:
    """Messages without a gap between them as one text frame."""
    first, last = messages[0]["seq"], messages[-1]["seq"]
    return orjson.dumps({"kind": "deltas", "from": first, "seq": last, "deltas": coalesced(messages)}).decode()


def beat(away: str) -> str:
    """The frame that says that the line works, and of what no news can be had."""
    return orjson.dumps({"kind": "beat"} | ({"away": away} if away else {})).decode()


def coalesced(messages: Sequence[Message]) -> list[Message]:
    """Without what a later message of the list replaces, in order."""
    last: dict[Any, int] = {}
    for message in messages:
        last[_place(message)] = message["seq"]
    return [message for message in messages if last[_place(message)] == message["seq"]]


def is_patient(message: Message) -> bool:
    """What comes every second whatever happens, and the phases of a slice but for training, whose loss is charted."""
    kind = message["kind"]
    return kind in ("windows", "replica", "slice") or (kind == "progress" and message["data"].get("phase") != "train")


def _place(message: Message) -> Any:
    if message["kind"] == "replica":
        return "replica", message["target"], message["data"].get("name")
    if message["kind"] == "progress":
        return "progress", message["target"]
    return message["seq"]


async def last_number(group: str) -> int:
    """As live.last_number, over a connection of its own."""
    async with redis.asyncio.from_url(settings.REDIS_URL) as client:
        return await live.last_number(client, group)
