"""What a client is told when the server can't take its request: in the shape that OpenAI's clients understand."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from serving.http import app
from serving.pocket.expand import expand
from tests.unit.serving.fakes import wait_until
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


def test_a_client_that_goes_away_within_its_body_is_no_error_of_the_server(api):
    parts = iter([{"type": "http.request", "body": b'{"mod', "more_body": True}, {"type": "http.disconnect"}])
    sent = []

    async def receive():
        return next(parts)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b""}
    asyncio.run(app.create_app(api)(scope, receive, send))  # an exception here is a traceback in the log
    assert sent[0]["status"] == 400
    assert b"closed within the body" in sent[1]["body"]
    assert api.metrics.num_open == 0


class Halted:
    """A call of the tokenizer that does not return before ``may_go_on``."""

    def __init__(self, api, monkeypatch):
        self._encode = api.target.tokenizer.encode
        self.is_reached, self.may_go_on, self.is_left = threading.Event(), threading.Event(), threading.Event()
        self.num_calls = 0
        monkeypatch.setattr(api.target.tokenizer, "encode", self)

    def __call__(self, *given):
        self.num_calls += 1
        self.is_reached.set()
        assert self.may_go_on.wait(60)
        self.is_left.set()
        return self._encode(*given)


def test_while_a_prompt_is_read_everything_else_goes_on(api, client, monkeypatch):
    halted = Halted(api, monkeypatch)
    with ThreadPoolExecutor(1) as others:
        reading = others.submit(client.post, "/v1/completions", json=ASKED)
        assert halted.is_reached.wait(60)
        assert client.get("/health").json()["status"] == "ok"
        by_ids = client.post("/v1/completions", json={**ASKED, "prompt": [1, 2, 3]})
        assert not halted.is_left.is_set()
        halted.may_go_on.set()
        assert (by_ids.status_code, reading.result().status_code) == (200, 200)


def test_no_more_prompts_are_read_than_there_is_room_for(api, client, monkeypatch):
    halted = Halted(api, monkeypatch)
    with ThreadPoolExecutor(2) as others:
        reading = [others.submit(client.post, "/v1/completions", json=ASKED) for _ in range(2)]
        wait_until(lambda: halted.num_calls == 2)
        status, error = refusal(client.post("/v1/completions", json=ASKED))
        assert (status, error["code"], halted.num_calls) == (429, "rate_limit_exceeded", 2)
        halted.may_go_on.set()
        assert [each.result().status_code for each in reading] == [200, 200]
    assert api.reading.num_open == 0
    assert refusal(client.post("/v1/completions", json={**ASKED, "prompt": ""}))[0] == 400
    assert api.reading.num_open == 0, "what is refused gives its place back"


LONG = "a document " * 370_000  # all but 4 MiB


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        ("completions", {"prompt": LONG}),
        ("chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
    ],
)
def test_a_text_that_cannot_fit_is_refused_without_being_tokenised(api, client, monkeypatch, call, asked):
    monkeypatch.setattr(api.target.tokenizer, "_tokenizer", None)
    status, error = refusal(client.post(f"/v1/{call}", json={"model": "demo", **asked}))
    assert (status, error["code"]) == (400, "context_length_exceeded")
    assert f"maximum context length is {api.engine.max_len} tokens, but the " in error["message"]
    assert "at least 31" in error["message"]


@pytest.mark.parametrize("num_spare", [1, 0])
def test_a_text_as_long_as_any_that_fits_is_tokenised(api, client, num_spare):
    """One token of 13 characters, the longest there is, as often as there are places for tokens."""
    prompt = "<|endoftext|>" * (api.engine.max_len - num_spare)
    answer = client.post("/v1/completions", json={**ASKED, "prompt": prompt, "max_tokens": 1})
    assert answer.status_code == (200 if num_spare else 400)
    if not num_spare:
        assert f"but the prompt has at least {api.engine.max_len} tokens" in answer.json()["error"]["message"]


def test_other_threads_go_on_while_a_text_is_tokenised(api, monkeypatch):
    """Such as the engine's: the tokenizer's call for one text holds the GIL from its beginning to its end."""
    num_turns, tokenizer = 0, api.target.tokenizer

    class Watched:
        """The tokenizer, and how many turns another thread had during its call."""

        def __getattr__(self, name, real=tokenizer._tokenizer):
            def call(*given, **named):
                before = num_turns
                try:
                    return getattr(real, name)(*given, **named)
                finally:
                    self.num_turns = num_turns - before

            return call

    watched = Watched()
    monkeypatch.setattr(tokenizer, "_tokenizer", watched)
    with ThreadPoolExecutor(1) as others:
        reading = others.submit(tokenizer.encode, "SELECT name FROM people WHERE age = 7; " * 15_000)
        while not reading.done():
            time.sleep(0.001)
            num_turns += 1
    assert len(reading.result()) > 100_000
    assert watched.num_turns > 9


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
