"""The broker or the database is away: who looks on is told that what they see is stale, and when it is not any more."""

import asyncio
import json
import time

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError

from aurora_web import live, live_hub, live_sources
from tests.unit.aurora_web.sockets import connect, leave, receive

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def all_sent(target):
    """What registering the target told is out before a socket counts."""
    live.close()


@pytest.fixture
def short_patience(monkeypatch):
    """Beats come, and silence is noticed, at once."""
    monkeypatch.setattr(live_hub, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(live_sources, "LATE_SECONDS", 0.5)
    monkeypatch.setattr(live_sources, "REST_SECONDS", 0.0)
    monkeypatch.setattr(live_sources, "_databases", {})


async def receive_beat(socket, **said):
    """Frames until a beat says this; the kinds of those before it."""
    kinds = []
    async with asyncio.timeout(60):
        while (found := json.loads((await socket.receive_output(60))["text"])) != {"kind": "beat"} | said:
            kinds.append(found["kind"] + found.get("away", ""))
    return kinds


@pytest.mark.asyncio
async def test_beats_say_that_the_broker_is_away_until_news_can_be_heard(target, users, own_valkey, short_patience):
    socket = await connect(users["viewer"], "demo")
    await receive_beat(socket)
    await sync_to_async(own_valkey.stop)()
    await receive_beat(socket, away="broker")
    await sync_to_async(own_valkey.start)()
    assert (await receive_beat(socket))[-1] == "snapshot"
    await leave(socket)


@pytest.mark.asyncio
async def test_beats_say_that_the_database_is_away_and_newcomers_hear_it_at_once(
    target, users, short_patience, monkeypatch
):
    def refuse():
        raise OperationalError("couldn't get a connection after 10.00 sec")

    answer = live_sources._question
    socket = await connect(users["viewer"], "demo")
    await receive_beat(socket)
    monkeypatch.setattr(live_sources, "_question", refuse)
    await receive_beat(socket, away="database")
    other = await connect(users["viewer"], "demo")
    assert await receive_beat(other, away="database") == ["snapshot"]
    monkeypatch.setattr(live_sources, "_question", answer)
    assert (await receive_beat(socket))[-1] == "snapshot"
    await leave(other)
    await leave(socket)


@pytest.mark.asyncio
async def test_it_stays_stale_while_no_snapshot_can_be_made(target, users, short_patience, monkeypatch):
    def refuse(*_):
        raise OperationalError("gone again")

    answer, state = live_sources._question, live_hub._state
    socket = await connect(users["viewer"], "demo")
    await receive(socket)
    monkeypatch.setattr(live_sources, "_question", refuse)
    monkeypatch.setattr(live_hub, "_state", refuse)
    await receive_beat(socket, away="database")
    monkeypatch.setattr(live_sources, "_question", answer)
    for _ in range(5):
        assert "beat" not in await receive_beat(socket, away="database")
    monkeypatch.setattr(live_hub, "_state", state)
    assert (await receive_beat(socket))[-1] == "snapshot"
    await leave(socket)


@pytest.mark.asyncio
async def test_the_database_is_asked_once_for_all_hubs(target, users, short_patience, monkeypatch):
    monkeypatch.setattr(live_sources, "REST_SECONDS", 600.0)
    asked = []
    monkeypatch.setattr(live_sources, "_question", lambda: asked.append(time.monotonic()))
    sockets = [await connect(users["viewer"], "demo"), await connect(users["viewer"])]
    for _ in range(3):
        for socket in sockets:
            await receive_beat(socket)
    assert len(asked) == 1
    for socket in sockets:
        await leave(socket)
