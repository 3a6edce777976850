"""Parts of a target's page over its socket: the same as by HTTP, made once for all who see the same."""

import asyncio
import json

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as names
from django.db import OperationalError
from django.test import Client

from aurora_web import live_parts
from aurora_web.live_parts import Answers
from aurora_web.registry.models import Target
from tests.unit.aurora_web.test_live import connect, leave, receive, say

pytestmark = pytest.mark.django_db(transaction=True)
QUERY = "range=30m&part=figures&part=replicas"


def visit(user):
    """(a client that is signed in, the cookies of its session as a socket's scope has them)."""
    client = Client()
    client.force_login(user)
    cookies = {name: morsel.value for name, morsel in client.cookies.items()}
    header = "; ".join(f"{name}={value}" for name, value in cookies.items())
    return client, {"headers": [(b"host", b"testserver"), (b"cookie", header.encode())], "cookies": cookies}


async def opened(user):
    client, scope = await sync_to_async(visit)(user)
    socket = await connect(user, "demo", **scope)
    assert (await receive(socket))["kind"] == "snapshot"
    return client, socket


async def parts(socket, query=QUERY):
    await say(socket, json.dumps({"kind": "parts", "query": query}))
    while (frame := await receive(socket))["kind"] == "deltas":  # what an earlier test's threads said late
        pass
    assert (frame["kind"], frame["query"]) == ("parts", query)
    return frame


@pytest.mark.asyncio
@pytest.mark.parametrize("role", ["viewer", "operator"])
async def test_the_socket_says_what_the_address_says(target, users, role):
    client, socket = await opened(users[role])
    frame = await parts(socket)
    answer = await sync_to_async(client.get)(f"/targets/demo/parts/?{QUERY}")
    assert frame["status"] == answer.status_code == 200
    assert frame["body"] == answer.content.decode()
    assert '<div id="figures" hx-swap-oob="innerHTML">' in frame["body"]
    await leave(socket)


@pytest.mark.asyncio
async def test_everybody_who_sees_the_same_gets_one_answer(target, users, settings, monkeypatch):
    settings.SHARED_SECONDS = 600.0
    made, honest = [], live_parts._get

    async def counted(scope, path, query):
        made.append(query)
        return await honest(scope, path, query)

    monkeypatch.setattr(live_parts, "_get", counted)
    sockets = [(await opened(users["viewer"]))[1] for _ in range(5)]
    bodies = {frame["body"] for frame in await asyncio.gather(*(parts(socket) for socket in sockets))}
    assert (len(bodies), len(made)) == (1, 1)
    _, other = await opened(users["operator"])  # who may do more sees more
    await parts(other)
    assert len(made) == 2
    await sync_to_async(Target.objects.update)(traffic_enabled=False)
    assert (await parts(sockets[0], f"{QUERY}&after=7"))["status"] == 200  # a delta was told of: not an old answer
    assert len(made) == 3
    for socket in (*sockets, other):
        await leave(socket)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("part=switches", 403),  # holds a form of one session
        ("part=figures&part=switches", 403),
        ("part=nothing", 403),
        ("", 404),
    ],
)
async def test_what_is_not_shared_is_left_to_a_request(target, users, query, status):
    _, socket = await opened(users["operator"])
    frame = await parts(socket, query)
    assert frame["status"] == status
    assert "body" not in frame
    await leave(socket)


@pytest.mark.asyncio
async def test_a_session_that_has_ended_gets_nothing(target, users):
    client, socket = await opened(users["viewer"])
    await sync_to_async(client.logout)()
    frame = await parts(socket)
    assert frame["status"] == 302  # to the sign-in
    assert "body" not in frame
    await leave(socket)


@pytest.mark.asyncio
@pytest.mark.parametrize("said", ['{"kind": "parts"}', '{"kind": "parts", "query": 7}', "[]", "7", "{"])
async def test_nonsense_is_answered_by_nothing_and_ends_nothing(target, users, said):
    _, socket = await opened(users["viewer"])
    await say(socket, said)
    assert (await parts(socket))["status"] == 200
    await leave(socket)


@pytest.mark.asyncio
async def test_a_failure_is_not_kept(settings):
    settings.SHARED_SECONDS = 600.0
    answers = Answers()

    async def fails():
        raise OperationalError("away")

    async def works():
        return "text"

    with pytest.raises(OperationalError):
        await answers.get("a", fails)
    assert await answers.get("a", works) == "text"
    assert await answers.get("a", fails) == "text"


@pytest.mark.asyncio
async def test_an_answer_is_as_old_as_its_making_and_the_shelf_is_bounded(settings, monkeypatch):
    settings.SHARED_SECONDS = 1.0
    seconds = [100.0]
    answers, made = Answers(clock=lambda: seconds[0]), []

    async def make():
        made.append(seconds[0])
        return str(len(made))

    assert [await answers.get("a", make), await answers.get("a", make)] == ["1", "1"]
    seconds[0] += names.SHARED_SECONDS
    assert await answers.get("a", make) == "2"
    monkeypatch.setattr(live_parts, "MOST_ENTRIES", 3)
    for key in "bcdef":
        seconds[0] += 1.0
        await answers.get(key, make)
    assert len(answers._entries) <= 3
