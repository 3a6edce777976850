"""Aurora's own headers, over HTTP, with an engine whose answers are scripted."""

import json

import pytest
from starlette.testclient import TestClient

from serving.http.app import Api, create_app
from serving.http.metrics import Metrics
from serving.http.requests import ServedTarget
from serving.trace.counts import CountAggregator
from serving.trace.recorder import Recorder
from tests.unit.serving.fakes import FakeEngine

EURO = "a€, and on"


@pytest.fixture
def engine(tokenizer):
    return FakeEngine(list(tokenizer.encode(EURO)))


@pytest.fixture
def client(engine, tokenizer):
    target = ServedTarget("demo", 64, 256, tokenizer)
    recorder = Recorder(CountAggregator("demo", "r"), None, None)
    api = Api(target, engine, recorder, Metrics(engine, recorder), 4, 0)
    return TestClient(create_app(api))


def ask(client, headers, **changes):
    body = {"model": "demo", "prompt": "SELECT", "max_tokens": 12, "temperature": 0, **changes}
    return client.post("/v1/completions", json=body, headers=headers)


def chunks(answer):
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_marks_come_with_each_step_when_they_are_asked_for(client):
    found = chunks(ask(client, {"x-aurora-steps": "1"}, stream=True))
    marked = [chunk for chunk in found if "aurora" in chunk]
    assert [chunk["aurora"]["step"] for chunk in marked] == [0, 1, 2, 3, 4, 5, 6]
    assert marked[0]["aurora"] == {"step": 0, "first": ["a"]}
    assert marked[1]["choices"][0]["text"] == ""  # two of the three bytes of a character
    assert marked[2]["aurora"]["correct"] == ["€"]
    assert marked[2]["aurora"]["bonus"] == [","]
    assert len(marked[2]["aurora"]["rejected"] + marked[2]["aurora"]["dropped"]) == 2
    texts = [chunk["choices"][0]["text"] for chunk in found if chunk["choices"]]
    assert "".join(texts) == EURO
    parts = [chunk["aurora"].get(name, []) for chunk in marked for name in ("first", "correct", "bonus", "unfinished")]
    assert "".join(text for part in parts for text in part) == EURO


def test_without_asking_chunks_are_openais(client):
    assert not any("aurora" in chunk for chunk in chunks(ask(client, {}, stream=True)))
    assert not any("aurora" in chunk for chunk in chunks(ask(client, {"x-aurora-steps": "0"}, stream=True)))


def test_what_is_unfinished_at_the_end_has_a_mark(client, engine):
    engine.script = engine.script[:3]  # "a" and two of three bytes
    [*_, last, _] = chunks(ask(client, {"x-aurora-steps": "1"}, stream=True, max_tokens=3))
    assert last["choices"][0]["text"] == "\N{REPLACEMENT CHARACTER}"
    assert last["aurora"] == {"step": 1, "unfinished": ["\N{REPLACEMENT CHARACTER}"]}


@pytest.mark.parametrize(
    ("header", "is_control"), [({}, None), ({"x-aurora-control": "1"}, True), ({"x-aurora-control": "0"}, False)]
)
def test_a_client_may_choose_to_be_a_control_or_never_to_be_one(client, engine, header, is_control):
    assert ask(client, header).status_code == 200
    assert engine.submitted[-1].is_control is is_control
    assert engine.submitted[-1].is_alone is (is_control is not None)  # so that the two can be compared


@pytest.mark.parametrize(
    ("headers", "changes", "named"),
    [
        ({"x-aurora-control": "maybe"}, {}, "x-aurora-control"),
        ({"x-aurora-steps": "yes please"}, {"stream": True}, "x-aurora-steps"),
        ({"x-aurora-steps": "1"}, {}, '"stream": true'),
        ({"x-aurora-steps": "1"}, {"stream": True, "stop": "x"}, "without stop"),
    ],
)
def test_what_cannot_be_is_refused_in_words(client, engine, headers, changes, named):
    answer = ask(client, headers, **changes)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]
    assert engine.submitted == []
