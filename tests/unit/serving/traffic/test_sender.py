"""The sender and a target without a chat template: it learns that from the answer, and goes on in plain text."""

import asyncio
import json
import random

import httpx
import pytest

from serving.http.app import create_app
from serving.pocket.expand import expand
from serving.traffic.plan import Plan
from serving.traffic.prompts import Prompts
from serving.traffic.sender import CHAT, COMPLETIONS, Sender
from tests.unit.serving.running_api import running_api

OF_SGLANG = {
    "object": "error",
    "message": "Cannot use chat template functions because tokenizer.chat_template is not set and no template "
    "argument was passed! For information about writing templates see ...",
    "type": "BadRequest",
    "param": None,
    "code": 400,
}
ENDED = {"usage": {"completion_tokens": 4}}


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    """The real API of a pocket target whose chat template was taken away."""
    folder = expand(tmp_path_factory.mktemp("models") / "base")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    del tokenizer["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with running_api(folder, tmp_path_factory.mktemp("state"), max_open_requests=8) as api:
        yield httpx.ASGITransport(create_app(api))


def plan(url="http://engine", concurrency=1):
    return Plan("base", url, True, concurrency, 0.0, {"sql": 1.0}, 4, 0.5)


def sent(transport, plans, num_each=3):
    """What is sent to each of these plans' engines in turn: (counts, host, path, body of the request)."""

    async def send():
        found = []

        async def note(request):
            found.append((request.url.host, request.url.path, json.loads(request.content)))

        async with httpx.AsyncClient(transport=transport, event_hooks={"request": [note]}) as http:
            sender = Sender(http, Prompts(1), plans[0], random.Random(1))
            for each in plans:
                sender.update(each)
                enough = (
                    sender.counts.num_requests + each.concurrency + num_each
                )  # some of the engine before are in the air
                while sender.counts.num_requests < enough and not sender.counts.num_failures:
                    await asyncio.sleep(0.005)
            await sender.stop()
            return sender.counts, found

    return asyncio.run(asyncio.wait_for(send(), 60))


def test_a_base_model_is_sent_plain_prompts(base_model):
    counts, found = sent(base_model, [plan()])
    assert counts.num_failures == 0, counts.last_failure
    assert counts.num_tokens > 0
    paths = [path for _, path, _ in found]
    assert paths[0] == CHAT and set(paths[1:]) == {COMPLETIONS}  # it is told once
    asked = [body["prompt"] for _, path, body in found if path == COMPLETIONS]
    assert all(prompt.startswith("### Question\n") for prompt in asked)  # as a prompt is written without a template
    assert found[0][2]["messages"][0]["content"] in asked[0]  # the prompt that was refused is not lost


def test_requests_in_the_air_meanwhile_fall_back_too(base_model):
    counts, found = sent(base_model, [plan(concurrency=4)], num_each=8)
    assert counts.num_failures == 0, counts.last_failure
    assert 1 <= sum(path == CHAT for _, path, _ in found) <= 4


def engines(answer):
    """Engines that answer as this function says, though not at once."""

    async def later(request):
        await asyncio.sleep(0.001)
        return answer(request)

    return httpx.MockTransport(later)


def test_the_next_engine_is_asked_to_chat_again():
    def answer(request):
        is_refused = request.url.path == CHAT and request.url.host == "sglang"
        return httpx.Response(400, json=OF_SGLANG) if is_refused else httpx.Response(200, json=ENDED)

    counts, found = sent(engines(answer), [plan("http://sglang"), plan("http://other")])
    assert counts.num_failures == 0, counts.last_failure
    assert {path for host, path, _ in found if host == "other"} == {CHAT}
    assert [path for host, path, _ in found if host == "sglang"][:3] == [CHAT, COMPLETIONS, COMPLETIONS]


def test_another_refusal_is_a_failure():
    refused = {"error": {"message": "the chat template refuses these messages: no system role", "param": "messages"}}
    counts, found = sent(engines(lambda _: httpx.Response(400, json=refused)), [plan()])
    assert "no system role" in counts.last_failure
    assert {path for _, path, _ in found} == {CHAT}


def test_whatever_goes_wrong_is_counted_and_tried_again():
    """An answer that is no object is neither an HTTPError nor a ValueError."""
    counts, _ = sent(httpx.MockTransport(lambda request: httpx.Response(200, json=[])), [plan()])
    assert (counts.num_requests, counts.last_failure.split()[0]) == (0, "TypeError")
