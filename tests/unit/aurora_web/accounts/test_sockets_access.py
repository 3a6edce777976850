"""The permission matrix of the sockets, through the whole ASGI application; and that one check decides everywhere."""

import json

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.test import Client

from aurora_web import live
from aurora_web.accounts import scopes
from aurora_web.accounts.models import User
from aurora_web.accounts.services import create_token
from aurora_web.asgi import application
from aurora_web.live_consumer import NO_TARGET, NOT_SIGNED_IN
from tests.unit.aurora_web.sockets import leave

pytestmark = pytest.mark.django_db(transaction=True)
SOCKETS = {"/ws/overview": scopes.READ, "/ws/targets/demo": scopes.READ}


@pytest.fixture(autouse=True)
def all_sent(target):
    live.close()


def headers_of(browser):
    cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in browser.cookies.items())
    return [(b"host", b"testserver"), (b"origin", b"http://testserver"), (b"cookie", cookies.encode())]


async def opened(path, headers):
    """The socket, and its first frame or the code with which it was closed."""
    scope = {"type": "websocket", "path": path, "query_string": b"", "headers": headers, "subprotocols": []}
    socket = ApplicationCommunicator(application, scope)
    await socket.send_input({"type": "websocket.connect"})
    assert (await socket.receive_output(60))["type"] == "websocket.accept"
    answer = await socket.receive_output(60)
    return socket, answer["code"] if answer["type"] == "websocket.close" else json.loads(answer["text"])


def test_every_socket_is_in_the_matrix():
    found = application.application_mapping["websocket"]
    while not hasattr(found, "routes"):
        found = getattr(found, "application", None) or found.inner
    assert {f"/{route.pattern}".replace("<str:slug>", "demo") for route in found.routes} == set(SOCKETS)


@pytest.mark.asyncio
@pytest.mark.parametrize("path", SOCKETS)
async def test_sockets(clients, path):
    for role, browser in clients.items():
        socket, answer = await opened(path, headers_of(browser))
        if role != "anonymous" and SOCKETS[path] in scopes.SCOPES[role]:
            assert answer["kind"] == "snapshot", role
        else:
            assert answer == NOT_SIGNED_IN, role
        await leave(socket)


@pytest.mark.asyncio
async def test_a_token_opens_no_socket_and_a_person_who_is_switched_off_none_either(clients, users):
    _, secret = await sync_to_async(create_token)("mine", "admin", "test")
    bearer = (b"authorization", f"Bearer {secret}".encode())
    await sync_to_async(User.objects.filter(username="viewer").update)(is_active=False)
    for headers in ([*headers_of(Client()), bearer], headers_of(clients["viewer"])):
        socket, answer = await opened("/ws/overview", headers)
        assert answer == NOT_SIGNED_IN
        await leave(socket)
    socket, answer = await opened("/ws/targets/nobody", headers_of(clients["admin"]))
    assert answer == NO_TARGET
    await leave(socket)


@pytest.mark.asyncio
async def test_pages_api_and_sockets_ask_one_check(clients, bearer, monkeypatch):
    admin, token = clients["admin"], await sync_to_async(bearer)("admin")
    seen = []
    monkeypatch.setattr(scopes, "allows", lambda has, scope: seen.append(scope))
    for path, headers in (("/targets/demo/settings/", {}), ("/api/v1/targets", {}), ("/api/v1/targets", token)):
        assert (await sync_to_async(admin.get)(path, **headers)).status_code == 403
    socket, answer = await opened("/ws/overview", headers_of(admin))
    assert answer == NOT_SIGNED_IN
    await leave(socket)
    assert set(seen) == {"read"}
