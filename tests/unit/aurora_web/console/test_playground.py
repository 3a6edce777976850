"""The playground: who may send, what is refused, and what a replica over real HTTP is asked and answers."""

import asyncio
import json
from contextlib import aclosing
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from aurora_web.console import playground
from aurora_web.registry.services import register_target
from aurora_web.rollouts import replica_stream, replicas
from aurora_web.rollouts.models import Replica
from aurora_web.rollouts.playground import NO_STEPS, Asked, play
from tests.unit.aurora_web.console.fake_replica import CONTROL, FACTS, FakeReplica
from tests.unit.serving.fakes import wait_until

pytestmark = pytest.mark.django_db
PAGE = "/targets/demo/playground/"
FORM = {
    "prompt": "SELECT", "kind": "chat", "temperature": "0", "max_tokens": "8", "domain": "playground", "replica": "r1",
}  # fmt: skip


@pytest.fixture
def replica(target, observed):
    found = FakeReplica()
    replicas.observe(observed(url=found.url, version=0))
    yield found
    found.stop()


def text(answer):
    return " ".join(answer.content.decode().split())


def send(browser, **changes):
    """(status, events or the JSON answer)."""
    answer = browser.post(f"{PAGE}play/", {**FORM, **changes})
    if answer.streaming:
        return answer.status_code, [json.loads(line) for line in b"".join(answer).splitlines()]
    return answer.status_code, answer.json() if answer["content-type"] == "application/json" else {}


def of(events, kind):
    return [event for event in events if event["event"] == kind]


def test_both_answers_come_with_marks_and_speeds(clients, replica):
    status, events = send(clients["operator"])
    assert status == 200
    assert [event["side"] for event in of(events, "begin")] == ["speculative", "control"]
    marked = [event for event in of(events, "text") if event["side"] == "speculative"]
    assert marked[1]["marks"] == {"correct": ["b"], "rejected": ["x"], "dropped": ["y"], "bonus": ["c"]}
    assert "".join(event["text"] for event in marked) == "abcdef"
    drafted, control = of(events, "end")
    assert (drafted["tokens_per_second"], control["tokens_per_second"]) == (100.0, 50.0)
    assert (drafted["accept_length"], drafted["measured_by"], drafted["version"]) == (2.5, "engine", 3)
    [done] = of(events, "done")
    assert done == {"event": "done", "ratio": 2.0, "notes": ["Both texts are the same."]}


def test_the_page_says_which_tokens_have_no_text(clients, replica):
    page = " ".join(clients["operator"].get(PAGE).content.decode().split())
    assert "no text of its own is shown as ∅: the one that ends an answer, or a part of a character" in page


def test_the_replica_is_asked_for_both_kinds_and_told_not_to_learn(clients, replica):
    send(clients["operator"], domain="sql", temperature="0.5")
    (path, drafted, body), (_, control, again) = replica.asked
    assert path == "/v1/chat/completions"
    assert body == again
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("demo", 0.5, 8)
    assert body["messages"] == [{"role": "user", "content": "SELECT"}]
    for headers, wanted in ((drafted, "0"), (control, "1")):
        assert headers["x-aurora-control"] == wanted
        assert (headers["x-aurora-no-train"], headers["x-aurora-domain"]) == ("1", "sql")
    assert drafted["x-aurora-steps"] == "1"
    assert not {"cookie", "authorization"} & {name.lower() for name in drafted}


def test_only_the_first_is_learnt_from_when_a_person_says_so(clients, replica):
    send(clients["operator"], may_be_learnt_from="on", kind="completion")
    (path, drafted, body), (_, control, _) = replica.asked
    assert (path, body["prompt"]) == ("/v1/completions", "SELECT")
    assert "x-aurora-no-train" not in drafted
    assert control["x-aurora-no-train"] == "1"


@pytest.mark.parametrize(
    ("facts", "note"),
    [
        ({True: FACTS}, "older than this page"),
        ({True: None}, "older than this page"),
        ({False: CONTROL}, "no draft is live"),
        ({False: {**FACTS, "decode_seconds": 0}}, "a single token"),
        ({False: {**FACTS, "num_accept_tokens": 31}}, "the steps of 31 tokens say little about speed"),
    ],
)
def test_what_cannot_be_compared_is_not(clients, replica, facts, note):
    replica.facts = {**replica.facts, **facts}
    [done] = of(send(clients["operator"])[1], "done")
    assert done["ratio"] is None
    assert note in done["notes"][0]


def test_it_is_said_when_the_engine_proposed_nothing_and_when_texts_differ(clients, replica):
    replica.facts[False] = {**FACTS, "num_proposed_drafts": 0}
    replica.text = "abcdeX"
    [done] = of(send(clients["operator"])[1], "done")
    assert done["ratio"] == 2.0
    assert "Nothing was proposed" in done["notes"][0]
    assert "rounding decides" in done["notes"][1]
    [done] = of(send(clients["operator"], temperature="1")[1], "done")
    assert "drawn at random" in done["notes"][1]


def test_sglang_is_asked_once_and_the_page_says_why(clients, replica, observed):
    replicas.observe(observed(url=replica.url, engine="sglang 0.5.21", version=0))
    replica.has_marks, replica.facts[False] = False, None
    status, events = send(clients["operator"])
    [(_, headers, _)] = replica.asked
    assert "x-aurora-control" not in headers
    assert "x-aurora-steps" not in headers
    [end], [done] = of(events, "end"), of(events, "done")
    assert (status, end["measured_by"], end["accept_length"]) == (200, "console", None)
    assert done == {"event": "done", "ratio": None, "notes": [NO_STEPS]}
    assert NO_STEPS in text(clients["operator"].get(PAGE))


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"prompt": ""}, "prompt", "required"),
        ({"prompt": "x" * (playground.MOST_CHARACTERS + 1)}, "prompt", "8001"),
        ({"max_tokens": "0"}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": "513"}, "max_tokens", "less than or equal to 512"),
        ({"temperature": "3"}, "temperature", "less than or equal to 2"),
        ({"temperature": "nan"}, "temperature", "number"),
        ({"domain": "No Domain"}, "domain", "Expected 1 to 64"),
        ({"domain": "sql\n"}, "domain", "Expected 1 to 64"),
        ({"kind": "poem"}, "kind", "poem"),
        ({"replica": "http://127.0.0.1:1"}, "replica", "no replica of this target"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(clients, replica, changes, field, said):
    status, answer = send(clients["operator"], **changes)
    assert status == 422
    assert list(answer["errors"]) == [field]
    assert said in answer["errors"][field][0]
    assert replica.asked == []


def test_a_replica_of_another_target_is_never_asked(clients, replica, checkpoint_dir, observed):
    register_target(path=str(checkpoint_dir), actor="test", slug="other")
    replicas.observe(observed(target="other", replica="theirs", url=replica.url, version=0))
    status, answer = send(clients["operator"], replica="theirs")
    assert (status, replica.asked) == (422, [])
    assert "no replica of this target" in answer["errors"]["replica"][0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"is_alive": False}, "it is down"),
        ({"seen_at": timezone.now() - timedelta(minutes=3)}, "it is down, seen"),
        ({"state": "starting"}, "it is starting"),
        ({"url": "ftp://127.0.0.1/"}, "no http address"),
    ],
)
def test_a_replica_that_cannot_be_asked_is_said(clients, replica, changes, said):
    Replica.objects.update(**changes)
    status, answer = send(clients["operator"])
    assert (status, replica.asked) == (422, [])
    assert said in answer["errors"]["replica"][0]
    page = text(clients["operator"].get(PAGE))
    assert "No replica can be asked" in page
    assert "<li>r1: " in page
    assert said in page


def test_a_viewer_sees_what_it_is_and_sends_nothing(clients, replica):
    page = text(clients["viewer"].get(PAGE))
    assert "Sending is for operators" in page
    assert "<textarea" not in page
    assert send(clients["viewer"])[0] == 403
    assert replica.asked == []


def test_sending_needs_the_token_of_the_form(users, replica):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(users["operator"])
    assert browser.post(f"{PAGE}play/", FORM).status_code == 403
    assert replica.asked == []


def test_before_any_replica_the_page_says_what_to_do(clients, target):
    page = text(clients["operator"].get(PAGE))
    assert "No replica has reported yet" in page
    assert "make up" in page


def test_the_settings_are_in_the_address_and_odd_ones_are_not_taken(clients, replica):
    page = text(clients["operator"].get(f"{PAGE}?temperature=0.7&max_tokens=9000&domain=sql&kind=completion&replica=x"))
    assert 'name="temperature" value="0.7"' in page
    assert 'name="max_tokens" value="128"' in page
    assert 'name="domain" value="sql"' in page
    assert '<option value="completion" selected>' in page
    assert '<option value="r1" selected>' in page


def test_a_replica_that_dies_in_the_middle_is_said_and_nothing_is_asked_after_it(clients, replica):
    replica.cut_after = 2
    _, events = send(clients["operator"])
    assert [event["event"] for event in events] == ["begin", "text", "text", "error"]
    assert "ended before its end mark" in events[-1]["message"]
    assert len(replica.asked) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": 400, "error": b'{"error": {"message": "context length is 64"}}'}, "400: context length is 64"),
        ({"status": 400, "error": b'{"object": "error", "message": "no such model"}'}, "400: no such model"),
        ({"status": 500, "error": b"<h1>secret page of something else</h1>"}, "answered 500."),
        ({"status": 302, "location": "http://169.254.169.254/"}, "a redirect, which is not followed"),
    ],
)
def test_a_refusal_is_said_in_the_replicas_words_and_no_others(clients, replica, answer, said):
    for name, value in answer.items():
        setattr(replica, name, value)
    [error] = of(send(clients["operator"])[1], "error")
    assert said in error["message"]
    assert "secret" not in error["message"]
    assert len(replica.asked) == 1


UNAUTHORIZED = {"status": 401, "error": b'{"error":"Unauthorized"}'}  # as SGLang says it


def refused_as(replica, observed, engine):
    replicas.observe(observed(url=replica.url, engine=engine, version=0))
    for name, value in UNAUTHORIZED.items():
        setattr(replica, name, value)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "The SGLang server of r1 asks for an API key, and this console has none (it answered 401: Unauthorized)."),
        ("geheim", "The SGLang server of r1 refused this console's API key (it answered 401: Unauthorized)."),
    ],
)
def test_a_server_that_wants_a_key_is_said_with_the_way_out(clients, replica, observed, settings, caplog, key, said):
    settings.SGLANG_API_KEY = key
    refused_as(replica, observed, "sglang 0.5.21")
    [error] = of(send(clients["operator"])[1], "error")
    assert error["message"].startswith(said)
    assert "Set AURORA_SGLANG_API_KEY in the console's environment to the server's --api-key" in error["message"]
    assert "geheim" not in error["message"] + caplog.text + text(clients["operator"].get(PAGE))


def test_the_key_goes_to_sglang_alone(clients, replica, observed, settings):
    settings.SGLANG_API_KEY = "geheim"
    send(clients["operator"])
    assert all("authorization" not in headers for _, headers, _ in replica.asked)
    replicas.observe(observed(url=replica.url, engine="sglang 0.5.21", version=0))
    send(clients["operator"])
    assert replica.asked[-1][1]["authorization"] == "Bearer geheim"
    assert "geheim" not in repr(Asked(replica.url, "demo", False, "chat", "", 0.0, 8, "sql", api_key="geheim"))


def test_an_embedded_engine_is_sent_to_no_setting_of_sglang(clients, replica, observed):
    refused_as(replica, observed, "aurora-embedded 0.1")
    [error] = of(send(clients["operator"])[1], "error")
    assert error["message"] == "The replica gave no whole answer: it answered 401: Unauthorized."


def test_a_replica_that_is_not_there_is_said(clients, replica):
    replica.stop()
    [error] = of(send(clients["operator"])[1], "error")
    assert f"does not answer at {replica.url}/v1/chat/completions" in error["message"]


def test_an_answer_has_a_largest_size(clients, replica, monkeypatch):
    monkeypatch.setattr(replica_stream, "MOST_BYTES", 1 << 20)
    replica.is_endless = True
    [error] = of(send(clients["operator"])[1], "error")
    assert "larger than 1 MiB" in error["message"]


@pytest.mark.parametrize(
    ("name", "most", "said"),
    [("MOST_BYTES", 1 << 20, "is larger than 1 MiB"), ("MOST_SECONDS", 0.0, "takes longer than 0 seconds")],
)
def test_a_refusal_has_them_too(clients, replica, monkeypatch, name, most, said):
    monkeypatch.setattr(replica_stream, name, most)
    replica.status, replica.is_endless = 500, True
    [error] = of(send(clients["operator"])[1], "error")
    assert error["message"] == f"The replica gave no whole answer: it answered 500, and its answer {said}."


def test_one_run_at_a_time_for_a_person(clients, users, replica, monkeypatch):
    monkeypatch.setattr(playground, "_running", {users["operator"].pk})
    status, answer = send(clients["operator"])
    assert (status, answer["message"], replica.asked) == (429, playground.BUSY, [])
    assert send(clients["admin"])[0] == 200


def asked_of(replica):
    return Asked(replica.url, "demo", True, "chat", "SELECT", 0.0, 8, "playground")


def test_the_place_is_given_back_however_a_run_ends(replica):
    async def both():
        lines = playground._lines(7, asked_of(replica))
        assert json.loads(await anext(lines))["event"] == "begin"
        second = [json.loads(line) async for line in playground._lines(7, asked_of(replica))]
        await lines.aclose()
        third = [json.loads(line) async for line in playground._lines(7, asked_of(replica))]
        return second, third

    second, third = asyncio.run(both())
    assert [event["message"] for event in second] == [playground.BUSY]
    assert third[-1]["event"] == "done"


def test_a_client_that_goes_away_ends_the_request(replica):
    replica.is_endless = True

    async def leave():
        async with aclosing(play(asked_of(replica))) as events:
            async for event in events:
                if event["event"] == "text":
                    return

    asyncio.run(leave())
    wait_until(lambda: replica.num_left == 1)
    assert len(replica.asked) == 1


@pytest.mark.parametrize("chunk", ["no json", "[1]", '{"choices": "x"}', '{"choices": [7], "usage": 1, "aurora": [1]}'])
def test_odd_chunks_break_nothing(clients, replica, chunk, monkeypatch):
    monkeypatch.setattr(replica, "send", lambda handler, _: handler.wfile.write(b"data: " + chunk.encode() + b"\n\n"))
    status, events = send(clients["operator"])
    assert status == 200
    assert events[-1]["event"] in ("error", "done")
