"""What a client is told when the server can't take its request: in the shape that OpenAI's clients understand."""

import pytest
from starlette.testclient import TestClient

from serving.http import app
from serving.pocket.expand import expand
from tests.unit.serving.running_api import running_api

ASKED = {"model": "demo", "prompt": "SELECT", "max_tokens": 3}


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """The server's parts around a running engine; at most two requests at once, no console."""
    folder = expand(tmp_path_factory.mktemp("models") / "demo")
    with running_api(folder, tmp_path_factory.mktemp("state"), max_open_requests=2) as found:
        yield found


@pytest.fixture
def client(api):
    with TestClient(app.create_app(api), raise_server_exceptions=False) as client:
        yield client


def refusal(answer):
    body = answer.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    return answer.status_code, body


def test_a_request_too_many_is_told_to_come_back(api, client):
    assert client.post("/v1/completions", json=ASKED).status_code == 200
    api.metrics.opened()
    api.metrics.opened()
    try:
        answer = client.post("/v1/completions", json=ASKED)
    finally:
        api.metrics.closed(0.1, None)
        api.metrics.closed(0.1, None)
    status, error = refusal(answer)
    assert (status, error["code"]) == (429, "rate_limit_exceeded")
    assert "2 requests are running or waiting already" in error["message"]
    assert answer.headers["retry-after"] == "1"
    assert client.post("/v1/completions", json=ASKED).status_code == 200


def test_a_body_too_large_is_refused(client):
    status, error = refusal(client.post("/v1/completions", content=b" " * (app.MAX_BODY_BYTES + 1)))
    assert status == 413
    assert str(app.MAX_BODY_BYTES) in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_is_explained(client, body):
    status, error = refusal(client.post("/v1/chat/completions", content=body))
    assert status == 400
    assert "no JSON" in error["message"]


def test_a_bug_of_ours_is_not_the_clients_and_ends_nothing(client, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(app, "Generation", lambda *_: 1 / 0)
        status, error = refusal(client.post("/v1/completions", json=ASKED))
    assert (status, error["code"]) == (500, "internal_error")
    assert "division" not in error["message"]
    assert client.post("/v1/completions", json=ASKED).status_code == 200


def test_a_stopped_engine_is_unavailable(api, client):
    api.engine.stop()  # the last test of this module
    answer = client.post("/v1/completions", json=ASKED)
    status, error = refusal(answer)
    assert (status, error["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "engine stopped")
