"""The push: a snapshot on connect, numbered deltas after commit, a snapshot again when asked."""

import asyncio
import gc
import json
import time
from collections import deque
from datetime import timedelta
from socket import create_server

import pytest
import redis
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from aurora_web import live, live_consumer, live_hub
from aurora_web.live_consumer import NO_TARGET, NOT_SIGNED_IN, LiveConsumer
from tests.unit.aurora_web.ending import ending_after
from tests.unit.aurora_web.sockets import connect, deltas, leave, receive, say

pytestmark = pytest.mark.django_db(transaction=True)

SAY = 'from aurora_web import live; live.publish({group}, "gate", {{}})'
COMMAND = """
import runpy, sys
sys.argv = ["manage.py", "shell", "--no-imports", "-c", {code!r}]
runpy.run_path("manage.py", run_name="__main__")
"""


@pytest.fixture(autouse=True)
def all_sent(target):
    """What registering the target told is out before a socket counts."""
    live.close()


def was_heard(group, settings):
    with redis.from_url(settings.REDIS_URL) as numbers:
        return numbers.get(live.sequence_key(live.group_of(group))) is not None


def test_what_a_process_says_last_is_heard_and_no_thread_outlives_it(settings):
    """A daemon thread that wakes while the interpreter ends has aborted ``manage.py register``."""
    group = int(time.time())
    ending = ending_after(SAY.format(group=group), REDIS_URL=settings.REDIS_URL)
    assert "live-sender" in ending.after_act, "else this test says nothing"
    assert ending.left == ["MainThread"]
    assert was_heard(group, settings)


def test_a_command_has_said_everything_before_the_interpreter_begins_to_end(settings):
    """At exit no new connection to a server by its name can be made any more."""
    group = int(time.time()) + 1
    ending = ending_after(COMMAND.format(code=SAY.format(group=group)), REDIS_URL=settings.REDIS_URL)
    assert "live-sender" not in ending.after_act
    assert was_heard(group, settings)


def test_a_broker_that_answers_nothing_holds_no_process_back():
    with create_server(("127.0.0.1", 0)) as deaf:
        ending = ending_after(SAY.format(group=1), REDIS_URL=f"redis://127.0.0.1:{deaf.getsockname()[1]}/0")
    assert "live-sender" in ending.after_act, "else this test says nothing"
    assert ending.left == ["MainThread"]
    assert ending.seconds < 2 * live.CLOSE_SECONDS


@pytest.mark.asyncio
async def test_numbers_as_keys_arrive_as_json_has_them(target, users):
    socket = await connect(users["viewer"], "demo")
    await receive(socket)
    await sync_to_async(live.publish)(target.pk, "windows", {"tokens": {3: 1.5}})
    [delta] = await deltas(socket, 1)
    assert delta["data"] == {"tokens": {"3": 1.5}}
    await leave(socket)


@pytest.mark.asyncio
async def test_nothing_goes_on_after_a_connection_that_failed(target, users):
    socket = await connect(users["viewer"], "demo")
    await receive(socket)
    await socket.send_input({"type": "no.message.of.ours"})
    with pytest.raises(ValueError, match="No handler"):
        await socket.wait(60)
    assert not [t for t in asyncio.all_tasks() if "LiveConsumer" in repr(t.get_coro())]


@pytest.mark.asyncio
async def test_snapshot_then_numbered_deltas(target, users):
    socket = await connect(users["viewer"], "demo")
    first = await receive(socket)
    assert first["kind"] == "snapshot"
    assert first["data"]["slug"] == "demo"
    for i in range(3):
        await sync_to_async(live.publish)(target.pk, "gate", {"i": i})
    told = await deltas(socket, 3)
    assert [d["data"]["i"] for d in told] == [0, 1, 2]
    assert [d["seq"] for d in told] == [first["seq"] + 1, first["seq"] + 2, first["seq"] + 3]
    await say(socket, '{"kind": "snapshot"}')
    again = await receive(socket)
    assert (again["kind"], again["seq"]) == ("snapshot", first["seq"] + 3)
    await leave(socket)


@pytest.mark.asyncio
async def test_the_overview_hears_of_every_target(target, users):
    socket = await connect(users["viewer"])
    assert (await receive(socket))["data"]["targets"][0]["slug"] == "demo"
    await sync_to_async(live.publish)(target.pk, "gate", {"passed": True})
    assert (await deltas(socket, 1))[0]["target"] == target.pk
    await leave(socket)


@pytest.mark.asyncio
async def test_nothing_is_sent_from_a_transaction_that_fails(target, users):
    from django.db import transaction

    def fail():
        with transaction.atomic():
            live.publish(target.pk, "gate", {})
            raise KeyError

    socket = await connect(users["viewer"], "demo")
    await receive(socket)
    with pytest.raises(KeyError):
        await sync_to_async(fail)()
    await sync_to_async(live.publish)(target.pk, "gate", {"is_after": True})
    assert (await deltas(socket, 1))[0]["data"] == {"is_after": True}
    await leave(socket)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("role", "slug", "code"), [("anonymous", "demo", NOT_SIGNED_IN), ("viewer", "other", NO_TARGET)]
)
async def test_refusals_have_a_code(target, users, role, slug, code):
    socket = await connect(users.get(role, AnonymousUser()), slug)
    closed = await socket.receive_output(60)
    assert (closed["type"], closed["code"]) == ("websocket.close", code)


@pytest.mark.asyncio
async def test_garbage_from_a_browser_is_ignored(target, users):
    socket = await connect(users["viewer"], "demo")
    await receive(socket)
    for garbage in ("", "{", "[]", '{"kind": "drop table"}'):
        await say(socket, garbage)
    await say(socket, '{"kind": "snapshot"}')
    assert (await receive(socket))["kind"] == "snapshot"
    await sync_to_async(live.publish)(target.pk, "gate", {"i": 1})
    assert (await deltas(socket, 1))[0]["data"] == {"i": 1}  # no answer to anything else came before
    await leave(socket)


@pytest.mark.asyncio
async def test_a_browser_that_has_gone_leaves_no_error_behind(target, users, monkeypatch):
    socket = await connect(users["viewer"], "demo")
    await receive(socket)
    tried, complaints = asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

    async def gone(self, **frame):
        tried.set()
        raise OSError("as uvicorn's ClientDisconnected")

    monkeypatch.setattr(LiveConsumer, "send", gone)
    await sync_to_async(live.publish)(target.pk, "gate", {})
    await asyncio.wait_for(tried.wait(), 60)
    await leave(socket)
    gc.collect()  # a task whose error nobody has asked for complains as it goes
    assert complaints == []


@pytest.mark.asyncio
async def test_what_comes_every_second_goes_with_what_happens(target, users, monkeypatch):
    monkeypatch.setattr(live_hub, "PATIENCE_SECONDS", 600.0)
    socket = await connect(users["viewer"], "demo")
    await receive(socket)
    for kind in ("windows", "replica", "swap"):
        await sync_to_async(live.publish)(target.pk, kind, {"name": "r1"})
    assert [delta["kind"] for delta in (await receive(socket))["deltas"]] == ["windows", "replica", "swap"]
    monkeypatch.setattr(live_hub, "PATIENCE_SECONDS", 0.01)
    await sync_to_async(live.publish)(target.pk, "windows", {})
    assert [delta["kind"] for delta in (await receive(socket))["deltas"]] == ["windows"]
    await leave(socket)


@pytest.mark.timed
@pytest.mark.asyncio
async def test_a_page_gets_at_most_ten_frames_a_second_and_misses_nothing(target, users, monkeypatch):
    sent, encode = [], live_hub.frame
    monkeypatch.setattr(live_hub, "frame", lambda messages: sent.append(time.monotonic()) or encode(messages))
    socket = await connect(users["viewer"], "demo")
    seq = (await receive(socket))["seq"]
    found = []
    for i in range(150):
        await sync_to_async(live.publish)(target.pk, "gate", {"i": i})
        await asyncio.sleep(0.005)
    while len(found) < 150:
        found += (await receive(socket))["deltas"]
    assert [d["data"]["i"] for d in found] == list(range(150))
    assert [d["seq"] for d in found] == list(range(seq + 1, seq + 151))
    assert max(sum(at <= other < at + 1 for other in sent) for at in sent) <= 10
    await leave(socket)


@pytest.mark.asyncio
async def test_a_gap_is_answered_with_a_snapshot_and_an_overtaken_message_is_put_in_order(target, users, monkeypatch):
    monkeypatch.setattr(live_hub, "HOLE_SECONDS", 2.0)
    socket = await connect(users["viewer"], "demo")
    seq = (await receive(socket))["seq"]

    async def send(number):
        payload = {"kind": "gate", "target": target.pk, "data": {}, "seq": number}
        await get_channel_layer().group_send(live.group_of(target.pk), {"type": "live.messages", "payloads": [payload]})

    await send(seq + 2)
    await send(seq + 1)
    assert [d["seq"] for d in await deltas(socket, 2)] == [seq + 1, seq + 2]
    await send(seq + 9)
    assert (await receive(socket))["kind"] == "snapshot"
    await leave(socket)


@pytest.mark.asyncio
async def test_a_message_that_nobody_heard_is_noticed_without_another_one(target, users, monkeypatch):
    monkeypatch.setattr(live_hub, "CHECK_SECONDS", 0.2)
    socket = await connect(users["viewer"], "demo")
    seq = (await receive(socket))["seq"]
    import redis.asyncio
    from django.conf import settings

    async with redis.asyncio.from_url(settings.REDIS_URL) as numbers:
        lost = await live.next_number(numbers, live.group_of(target.pk))
    again = await receive(socket)
    assert (again["kind"], again["seq"]) == ("snapshot", lost)
    assert lost > seq
    await leave(socket)


@pytest.mark.asyncio
async def test_a_line_without_news_is_heard_of(target, users, monkeypatch):
    monkeypatch.setattr(live_hub, "BEAT_SECONDS", 0.2)
    socket = await connect(users["viewer"], "demo")
    await receive(socket)
    for _ in range(2):
        assert json.loads((await socket.receive_output(60))["text"]) == {"kind": "beat"}
    await leave(socket)


@pytest.mark.asyncio
@pytest.mark.parametrize("end", ["logout", "expired", "password", "inactive"])
async def test_a_socket_closes_with_its_session(target, users, monkeypatch, end):
    monkeypatch.setattr(live_hub, "CHECK_SECONDS", 0.2)
    browser, viewer = Client(), users["viewer"]
    await sync_to_async(browser.force_login)(viewer)
    session = await sync_to_async(lambda: browser.session)()
    socket = await connect(viewer, "demo", session=session)
    await receive(socket)
    assert await socket.receive_nothing(timeout=0.5)  # still good

    def finish():
        if end == "logout":
            browser.logout()
        elif end == "expired":
            Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
        elif end == "password":
            viewer.set_password("another long password")
            viewer.save()
        else:
            type(viewer).objects.filter(pk=viewer.pk).update(is_active=False)

    await sync_to_async(finish)()
    closed = await socket.receive_output(60)
    assert (closed["type"], closed["code"]) == ("websocket.close", NOT_SIGNED_IN)


@pytest.mark.asyncio
async def test_sockets_of_a_group_share_what_is_read_and_encoded(target, users, monkeypatch):
    frames, snapshots = [], []
    encode, state = live_hub.frame, live_hub._state
    monkeypatch.setattr(live_hub, "frame", lambda messages: frames.append(messages) or encode(messages))
    monkeypatch.setattr(live_hub, "_state", lambda pk: snapshots.append(pk) or state(pk))
    sockets = await asyncio.gather(*(connect(users["viewer"], "demo") for _ in range(12)))
    firsts = [await receive(socket) for socket in sockets]
    assert len(snapshots) < 6, "who comes at once shares a snapshot"
    await sync_to_async(live.publish)(target.pk, "gate", {"i": 0})
    told = [(await deltas(socket, 1))[0] for socket in sockets]
    assert {delta["seq"] for delta in told} == {firsts[0]["seq"] + 1}
    assert len(frames) == 1
    for socket in sockets[1:]:
        await leave(socket)
    await sync_to_async(live.publish)(target.pk, "gate", {"i": 1})
    assert (await deltas(sockets[0], 1))[0]["data"] == {"i": 1}, "the last one goes on hearing"
    await leave(sockets[0])
    assert not live_hub._hubs
    assert not [t for t in asyncio.all_tasks() if "Hub." in repr(t.get_coro())]


@pytest.mark.asyncio
async def test_whoever_comes_while_messages_flow_misses_none(target, users):
    async def look():
        socket = await connect(users["viewer"], "demo")
        numbers = [(await receive(socket))["seq"]]
        while numbers[-1] < last.result() if last.done() else True:
            numbers += [delta["seq"] for delta in await deltas(socket, 1)]
        await leave(socket)
        return numbers

    first = await connect(users["viewer"], "demo")
    begin = (await receive(first))["seq"]
    last = asyncio.get_running_loop().create_future()
    watching = []
    for i in range(60):
        await sync_to_async(live.publish)(target.pk, "gate", {"i": i})
        if i % 10 == 0:
            watching.append(asyncio.create_task(look()))
        if i == 50:
            last.set_result(begin + 60)
        await asyncio.sleep(0.02)
    for numbers in await asyncio.gather(*watching):
        assert numbers == list(range(numbers[0], begin + 61))
    await leave(first)


@pytest.mark.asyncio
async def test_a_browser_that_takes_nothing_holds_nobody_up_and_gets_a_snapshot_in_the_end():
    sent, gate = [], asyncio.Event()

    class Slow(LiveConsumer):
        async def send(self, text_data=None, **_):
            await gate.wait()
            sent.append(text_data)

    class Hub:
        async def give_snapshot(self, member):
            member.offer("snapshot")

    socket = Slow()
    socket.tasks, socket.hub, socket.outbox, socket.sender = set(), Hub(), deque(), None
    socket.last_snapshot_at = float("-inf")
    for i in range(150):
        socket.offer(str(i))
        await asyncio.sleep(0)
    assert len(socket.outbox) <= live_consumer.MAX_WAITING
    gate.set()
    async with asyncio.timeout(60):
        while socket.tasks:
            await asyncio.wait(socket.tasks)
    assert sent[0] == "0"
    assert "snapshot" in sent


@pytest.mark.asyncio
@pytest.mark.parametrize("is_emptied", [False, True], ids=["restarted", "restarted empty"])
async def test_a_broker_restart_drops_no_socket(target, users, own_valkey, is_emptied, monkeypatch):
    monkeypatch.setattr(live_hub, "CHECK_SECONDS", 1.0)
    socket = await connect(users["viewer"], "demo")
    seq = (await receive(socket))["seq"]
    await sync_to_async(live.publish)(target.pk, "gate", {"i": 0})
    seq = (await deltas(socket, 1))[0]["seq"]
    await sync_to_async(own_valkey.stop)()
    await sync_to_async(live.publish)(target.pk, "gate", {"i": 1})  # nobody hears it
    await asyncio.sleep(0.3)
    if is_emptied:
        for file in own_valkey.folder.rglob("*"):
            file.is_file() and file.unlink()
    await sync_to_async(own_valkey.start)()
    frame = await receive(socket)
    assert frame["kind"] == "snapshot"
    for i in range(2, 40):  # and news arrive again, by themselves
        await sync_to_async(live.publish)(target.pk, "gate", {"i": i})
        await asyncio.sleep(0.25)
        if not await socket.receive_nothing(timeout=0.05):
            frame = await receive(socket)
            if frame["kind"] == "deltas":
                break
    assert frame["kind"] == "deltas"
    assert frame["seq"] > seq
    await leave(socket)
