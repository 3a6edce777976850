"""A browser's end of the push, without a browser."""

import json

from asgiref.testing import ApplicationCommunicator

from aurora_web.live_consumer import LiveConsumer


async def connect(user, slug=None, **scope):
    scope |= {"type": "websocket", "user": user, "url_route": {"kwargs": {"slug": slug} if slug else {}}}
    socket = ApplicationCommunicator(LiveConsumer.as_asgi(), scope)
    await socket.send_input({"type": "websocket.connect"})
    assert (await socket.receive_output(60))["type"] == "websocket.accept"
    return socket


async def receive(socket, seconds=60):
    """The next frame that says something."""
    while (frame := json.loads((await socket.receive_output(seconds))["text"]))["kind"] == "beat":
        pass
    return frame


async def deltas(socket, num):
    """The next ``num`` deltas, whatever their frames."""
    found = []
    while len(found) < num:
        frame = await receive(socket)
        assert frame["kind"] == "deltas"
        assert frame["seq"] == frame["deltas"][-1]["seq"]
        found += frame["deltas"]
    return found


async def say(socket, text):
    await socket.send_input({"type": "websocket.receive", "text": text})


async def leave(socket):
    await socket.send_input({"type": "websocket.disconnect", "code": 1000})
    await socket.wait(60)
