"""The engine's process as clients see it: `python -m serving` with the pocket target, a real client, a console."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import pytest
from safetensors.torch import load_file

from serving import config
from serving.pocket.expand import expand
from speculators.records import DesiredState, DomainPin, DomainPins
from tests.bench.ring import REPO, free_ports
from tests.unit.serving.fakes import ConsoleServer, wait_until
from tests.unit.serving.tiny import make_draft

PROMPT = "### Question\nTables:\n"  # an open beginning: sampled text differs, greedy text is long


@pytest.fixture(scope="module")
def demo_dir(tmp_path_factory):
    return expand(tmp_path_factory.mktemp("models") / "demo")


@pytest.fixture(scope="module")
def console_process():
    server = ConsoleServer()
    server.console.desired = DesiredState("demo", 0, 0, "", "", 6, 0.0, 0.0).to_json()
    yield server.console
    server.stop()


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def server(demo_dir, console_process, state_dir):
    """Its address."""
    [port] = free_ports(1)
    command = [sys.executable, "-m", "serving", "--target", str(demo_dir), "--slug", "demo", "--port", str(port)]
    command += ["--state-dir", str(state_dir), "--console-url", console_process.url, "--token", "t"]
    command += ["--segment-age-seconds", "0.2", "--control-share", "0"]
    environment = {**os.environ, "PYTHONPATH": f"{REPO}:{REPO / 'kernels'}"}
    with (state_dir / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def is_up():
        assert process.poll() is None, (state_dir / "log").read_text()
        try:
            return httpx.get(url + "/health").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(is_up, 60)
    yield url
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    log_text = Path(state_dir / "log").read_text()
    assert "Traceback" not in log_text, log_text


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server + "/v1", api_key="none", max_retries=0)


def complete(client, **changes):
    return client.completions.create(
        **{"model": "demo", "prompt": PROMPT, "max_tokens": 12, "temperature": 0, **changes}
    )


def metrics(server):
    return httpx.get(server + "/metrics", timeout=30).text


def test_models(client):
    assert [model.id for model in client.models.list()] == ["demo"]


def test_a_completion_counts_its_tokens(client):
    answer = complete(client)
    assert answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer.choices[0].text


def test_streaming_gives_the_same_text(client):
    whole = complete(client, max_tokens=40).choices[0].text
    pieces = [chunk.choices[0].text for chunk in complete(client, max_tokens=40, stream=True) if chunk.choices]
    assert "".join(pieces) == whole
    assert len(pieces) > 3


def test_chat(client):
    messages = [{"role": "user", "content": "Write a query"}]
    answer = client.chat.completions.create(model="demo", messages=messages, max_tokens=8, temperature=0)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.completion_tokens <= 8
    stream = client.chat.completions.create(
        model="demo",
        messages=messages,
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens


def test_stop_strings_end_before_themselves(client):
    text = complete(client, max_tokens=40).choices[0].text
    stop = text[5:8]
    answer = complete(client, max_tokens=40, stop=stop)
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_a_seed_repeats_sampled_text(client):
    texts = {complete(client, temperature=1.0, top_p=0.9, seed=5, max_tokens=30).choices[0].text for _ in range(3)}
    assert len(texts) == 1
    others = {complete(client, temperature=1.0, seed=seed, max_tokens=30).choices[0].text for seed in range(5)}
    assert len(others) > 1


def test_ignore_eos_fills_the_budget(client):
    answer = complete(client, max_tokens=200, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 200


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "gpt-9"}, "gpt-9"),
        ({"max_tokens": 100000}, "maximum context length"),
        ({"temperature": 3.0}, "temperature"),
        ({"n": 2}, "n"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"prompt": ""}, "prompt"),
    ],
)
def test_bad_requests_are_explained(client, changes, named):
    with pytest.raises((openai.BadRequestError, openai.NotFoundError), match=named):
        complete(client, **changes)


def test_traces_reach_the_console_with_their_domain(client, console_process):
    complete(client, extra_headers={"x-aurora-domain": "headed"})
    complete(client, extra_body={"metadata": {"domain": "described"}})
    complete(client)

    def domains():
        return {t["domain"] for s in console_process.of("/api/v1/ingest/segments") for t in s["traces"]}

    wait_until(lambda: {"headed", "described", "default"} <= domains())
    segment = console_process.of("/api/v1/ingest/segments")[-1]["segment"]
    assert Path(segment["uri"]).stat().st_size == segment["size_bytes"]


def test_no_train_is_counted_but_leaves_no_trace(client, console_process):
    complete(client, extra_headers={"x-aurora-no-train": "1", "x-aurora-domain": "secret"})
    complete(client, extra_headers={"x-aurora-domain": "later"})

    def seen(path, key):
        return {row["domain"] for payload in console_process.of(path) for row in payload[key]}

    wait_until(lambda: "later" in seen("/api/v1/ingest/segments", "traces"))
    wait_until(lambda: "secret" in seen("/api/v1/ingest/counts", "counts"))
    assert "secret" not in seen("/api/v1/ingest/segments", "traces")


def test_no_train_leaves_no_byte_on_the_disk(client, console_process, state_dir):
    """Not in a file of hidden states, which holds those of announced traces alone, nor in any other."""
    words = "who let the zebra out"
    complete(client, prompt=words, extra_headers={"x-aurora-no-train": "1"})
    complete(client, prompt="after the zebra", extra_headers={"x-aurora-domain": "after"})

    def announced():
        payloads = console_process.of("/api/v1/ingest/segments")
        return {trace["trace_id"]: trace for payload in payloads for trace in payload["traces"]}

    wait_until(lambda: "after" in {trace["domain"] for trace in announced().values()})

    def kept():
        return {key.split(".")[0] for file in state_dir.rglob("*.safetensors") for key in load_file(file)}

    wait_until(lambda: kept() == set(announced()))
    assert not any(words.encode() in file.read_bytes() for file in state_dir.rglob("*") if file.is_file())


def test_a_pin_in_the_consoles_answer_is_obeyed_like_the_header(client, console_process):
    pins = DomainPins(1, (DomainPin("pinned", speculation_off=True, no_training=True),))
    console_process.desired = DesiredState("demo", 0, 0, "", "", 6, 0.0, 0.0, pins).to_json()
    wait_until(lambda: console_process.of("/api/v1/ingest/observed")[-1].get("pins_revision") == 1)
    for domain in ("pinned", "after"):
        complete(client, extra_headers={"x-aurora-domain": domain})

    def seen(path, key):
        return {row["domain"] for payload in console_process.of(path) for row in payload[key]}

    wait_until(lambda: "after" in seen("/api/v1/ingest/segments", "traces"))
    wait_until(lambda: "pinned" in seen("/api/v1/ingest/counts", "counts"))
    assert "pinned" not in seen("/api/v1/ingest/segments", "traces")


def test_a_client_that_goes_away_frees_its_place(server, client):
    with httpx.stream(
        "POST",
        server + "/v1/completions",
        json={"model": "demo", "prompt": PROMPT, "max_tokens": 900, "stream": True, "ignore_eos": True},
    ) as answer:
        next(answer.iter_lines())
    wait_until(lambda: httpx.get(server + "/health", timeout=30).json()["num_running"] == 0)
    wait_until(lambda: "aurora_requests_cut_total 1.0" in metrics(server))  # it did not end by itself


def test_metrics_are_prometheus_text(server, client):
    complete(client)
    wait_until(lambda: "aurora_requests_total{" in metrics(server))
    text = metrics(server)
    assert "aurora_speculator_version 0.0" in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--target", "/nowhere"], "/nowhere"),
        (["--port", "70000"], "70000"),
        (["--control-share", "2"], "control-share"),
    ],
)
def test_wrong_settings_are_named(demo_dir, arguments, named):
    with pytest.raises(config.ConfigError, match=named):
        config.load(["--target", str(demo_dir), *arguments], {})


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("fd00::2", "[fd00::2]")])
def test_the_console_is_told_an_address_that_can_be_called(demo_dir, host, shown):
    assert config.load(["--target", str(demo_dir), "--host", host], {}).public_url == f"http://{shown}:8100"


def test_wrong_settings_stop_the_start(demo_dir):
    command = [sys.executable, "-m", "serving", "--target", str(demo_dir), "--port", "70000"]
    environment = {**os.environ, "PYTHONPATH": f"{REPO}:{REPO / 'kernels'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "70000" in done.stderr


@pytest.mark.parametrize(
    ("path", "asked", "field"),
    [
        ("completions", r'"prompt": "a\ud800"', "prompt"),
        ("completions", r'"prompt": ["a\udc00"]', "prompt"),
        ("chat/completions", r'"messages": [{"role": "user", "content": "\ud800"}]', "messages[0].content"),
        ("chat/completions", r'"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}]',
         "messages[0].content"),
        ("chat/completions", r'"messages": [{"role": "\ud800", "content": "a"}]', "messages[0].role"),
    ],
)  # fmt: skip
def test_half_a_surrogate_pair_is_the_clients_mistake(server, path, asked, field):
    body = '{"model": "demo", "max_tokens": 1, ' + asked + "}"
    answer = httpx.post(f"{server}/v1/{path}", content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", field)


def test_a_wrong_method_is_told_from_a_wrong_address(server):
    wrong = httpx.get(f"{server}/v1/completions")
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (405, "invalid_request_error")
    assert wrong.headers["allow"] == "POST"
    assert httpx.get(f"{server}/v1/nothing").json()["error"]["type"] == "not_found_error"


def test_usage_counts_the_steps_of_which_the_stream_told(client, console_process, demo_dir, tmp_path):
    sha256 = make_draft(tmp_path / "draft", json.loads((demo_dir / "config.json").read_text()), seed=1)
    pins = DomainPins(2, (DomainPin("always", lookahead=3),))
    wanted = DesiredState("demo", 1, 1, str(tmp_path / "draft"), sha256, 6, 0.0, 0.0, pins)
    console_process.desired = wanted.to_json()
    wait_until(lambda: console_process.of("/api/v1/ingest/observed")[-1]["version"] == 1)
    stream = complete(
        client,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
        extra_headers={"x-aurora-domain": "always", "x-aurora-steps": "1"},
    )
    chunks = list(stream)
    steps = [chunk.aurora for chunk in chunks if getattr(chunk, "aurora", {}).get("step", 0) > 0]
    kinds = ("correct", "rejected", "dropped", "bonus")
    told = {kind: sum(len(step.get(kind, ())) for step in steps) for kind in kinds}
    found = chunks[-1].usage.speculative
    assert (found["version"], found["is_control"]) == (1, False)
    assert found["num_verify_steps"] == len(steps) > 5
    assert found["num_proposed_drafts"] == told["correct"] + told["rejected"] + told["dropped"] > len(steps)
    assert found["num_correct_drafts"] == told["correct"]
    assert found["num_accept_tokens"] == told["correct"] + told["bonus"] == 23
    num_drafted = len(steps) - found["num_plain_steps"]
    assert found["accept_length"] == pytest.approx((23 - found["num_plain_steps"]) / num_drafted)
