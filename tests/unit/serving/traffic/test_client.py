"""The traffic as a client: it follows the console's plan or its options, shifts on schedule, and survives both ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from array import array
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from serving.traffic import client
from serving.traffic.domains.base import stable_hash
from serving.traffic.sender import Counts
from tests.bench.ring import REPO
from tests.unit.serving.fakes import ConsoleServer, wait_until

PLAN = {
    "slug": "demo",
    "enabled": True,
    "concurrency": 2,
    "requests_per_second": 50.0,
    "mix": {"sql": 1, "chat": 1},
    "max_tokens": 8,
    "sampled_share": 0.5,
    "schedule": [],
}


class Engine:
    """Counts what it is asked; a real HTTP server."""

    def __init__(self):
        self.asked = []
        self.status = 200
        self.is_free = threading.Event()  # cleared: requests wait
        self.is_free.set()
        self.open, self.most_open = 0, 0
        self._lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def prompts(self):
        return [body["messages"][0]["content"] for _, _, body in list(self.asked)]

    def domains(self, since=0):
        return {domain for _, domain, _ in self.asked[since:]}

    def _count(self, step):
        with self._lock:
            self.open += step
            self.most_open = max(self.open, self.most_open)

    def _handler(engine):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                engine._count(1)
                engine.asked.append((self.path, self.headers["x-aurora-domain"], body))
                engine.is_free.wait(60)
                engine._count(-1)
                answer = b'{"usage": {"completion_tokens": 8}}'
                self.send_response(engine.status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args):
                pass

        return Handler


@pytest.fixture
def engine():
    found = Engine()
    yield found
    found.is_free.set()
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def console():
    server = ConsoleServer()
    yield server
    server.stop()


@contextmanager
def traffic(*options, **environment):
    """The process, stopped at the end as the supervisor stops it."""
    environment = {**os.environ, "PYTHONPATH": f"{REPO}:{REPO / 'kernels'}", **environment}
    process = subprocess.Popen([sys.executable, "-m", "serving.traffic", *options], env=environment)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def follow(console, engine, **changes):
    console.console.traffic = {"targets": [PLAN | {"engine_url": engine.url} | changes]}


def plans_read(console):
    return len(console.console.of("/api/v1/traffic"))


def reports(console):
    """What was told about each target, the newest last."""
    told = [body["targets"] for body in console.console.of("/api/v1/ingest/traffic")]
    return [report for rows in told for report in rows]


def asked_again(console):
    """Wait until the console has been asked after now, and once more, so that the first answer is in force."""
    before = plans_read(console)
    wait_until(lambda: plans_read(console) >= before + 2)


def test_the_process_follows_the_console(engine, console):
    follow(console, engine)
    with traffic(AURORA_CONSOLE_URL=console.console.url, AURORA_REPLICA_TOKEN="secret"):
        wait_until(lambda: len(engine.asked) > 30)
        assert {path for path, _, _ in engine.asked} == {"/v1/chat/completions"}
        assert engine.domains() == {"sql", "chat"}
        bodies = [body for _, _, body in list(engine.asked)]
        assert {body["temperature"] for body in bodies} == {0.0, 0.7}
        assert {(body["model"], body["max_tokens"]) for body in bodies} == {("demo", 8)}
        assert "Bearer secret" in console.console.tokens
        assert not any("### Question" in prompt for prompt in engine.prompts())  # the chat template's work
        console.stop()  # the console is away: the last plan goes on
        count = len(engine.asked)
        wait_until(lambda: len(engine.asked) > count + 20)
        follow(console, engine, enabled=False)
        console.start()
        asked_again(console)
        wait_until(lambda: engine.open == 0)
        count = len(engine.asked)
        asked_again(console)
        assert len(engine.asked) == count  # quiet
    assert len(set(engine.prompts())) == len(engine.asked)


def test_what_the_process_sends_is_remembered_in_its_state_directory(engine, console, tmp_path):
    follow(console, engine, mix={"chat": 1, "rewrite_docs": 1})
    with traffic(AURORA_CONSOLE_URL=console.console.url, AURORA_STATE_DIR=str(tmp_path)):
        wait_until(lambda: len(engine.asked) > 10)
    kept = array("Q", (tmp_path / "traffic" / "sent").read_bytes())
    assert {stable_hash(prompt) for prompt in engine.prompts()} <= set(kept)


def test_as_many_requests_as_the_plan_says_are_in_the_air(engine, console):
    engine.is_free.clear()
    follow(console, engine, concurrency=3, requests_per_second=0.0)
    with traffic(AURORA_CONSOLE_URL=console.console.url):
        wait_until(lambda: engine.open == 3)
        asked_again(console)
        assert engine.most_open == 3
        follow(console, engine, concurrency=5, requests_per_second=0.0)
        wait_until(lambda: engine.open == 5)


def test_the_mix_shifts_on_schedule(engine, console):
    schedule = [{"seconds": 1, "mix": {"arithmetic": 1}}, {"seconds": 1, "mix": {"extract_json": 1}}]
    follow(console, engine, schedule=schedule)
    with traffic(AURORA_CONSOLE_URL=console.console.url):
        wait_until(lambda: engine.domains() == {"arithmetic", "extract_json"})
        count = len(engine.asked)
        wait_until(lambda: engine.domains(count) == {"arithmetic", "extract_json"})  # and round again


def test_a_plan_that_cannot_be_read_leaves_the_others_alone(engine, console):
    follow(console, engine)
    console.console.traffic["targets"].append(PLAN | {"slug": "other", "engine_url": engine.url, "mix": 3})
    with traffic(AURORA_CONSOLE_URL=console.console.url):
        wait_until(lambda: len(engine.asked) > 10)
        follow(console, engine, max_tokens="many")  # it goes on as before
        asked_again(console)
        count = len(engine.asked)
        wait_until(lambda: len(engine.asked) > count + 10)
    assert {(body["model"], body["max_tokens"]) for _, _, body in engine.asked} == {("demo", 8)}


def test_an_engine_that_fails_is_asked_again(engine, console):
    engine.status = 503
    follow(console, engine)
    with traffic(AURORA_CONSOLE_URL=console.console.url):
        wait_until(lambda: len(engine.asked) > 2)
        engine.status = 200
        count = len(engine.asked)
        wait_until(lambda: len(engine.asked) > count + 10)


def test_the_console_is_told_what_failed(engine, console, monkeypatch):
    """By the process's own loop, at a quicker beat."""
    monkeypatch.setattr(client, "REPORT_SECONDS", 0.05)
    engine.status = 503
    follow(console, engine)
    console.console.traffic["targets"].append(PLAN | {"slug": "other", "engine_url": engine.url, "mix": {"sql": 1e308}})

    def told(slug, **expected):
        return [r for r in reports(console) if r["slug"] == slug and all(r[k] == v for k, v in expected.items())]

    async def until(is_true):
        plans = client.ConsolePlans(console.console.url, "secret")
        running = asyncio.create_task(client.Traffic(plans, 1, tell=plans.tell).run())
        await asyncio.to_thread(wait_until, is_true)
        running.cancel()

    asyncio.run(until(lambda: any(report["num_failures"] for report in told("demo"))))
    failed = next(report for report in told("demo") if report["num_failures"])
    assert failed["last_failure"].startswith("ValueError HTTP 503") and failed["num_requests"] == 0
    assert told("other", problem="the weight of sql is 1e+308: expected 0 to 1,000,000", num_failures=0)
    engine.status = 200
    asyncio.run(until(lambda: any(report["num_requests"] for report in told("demo"))))
    assert any(report["num_requests"] and not report["last_failure"] for report in told("demo", problem=""))


def test_an_error_of_any_characters_is_told_in_those_that_the_console_takes(console):
    plans = client.ConsolePlans(console.console.url, "secret")
    plans._read = {"demo": (None, None)}

    async def tell():
        async with httpx.AsyncClient() as http:
            await plans.tell(http, {"demo": Counts(num_failures=1, last_failure="no\0 \udc80 " + "x" * 1000)})

    asyncio.run(tell())
    [report] = reports(console)
    assert report["last_failure"] == "no ? " + "x" * 494


def test_without_a_console_the_options_are_the_plan(engine):
    options = f"--engine-url {engine.url} --model smol --max-tokens 16 --mix explain_code --sampled-share 0".split()
    with traffic(*options, AURORA_CONSOLE_URL="http://127.0.0.1:9"):
        wait_until(lambda: len(engine.asked) > 20)
    assert engine.domains() == {"explain_code"}
    bodies = [body for _, _, body in engine.asked]
    assert {(body["model"], body["max_tokens"], body["temperature"]) for body in bodies} == {("smol", 16, 0.0)}


def test_it_runs_without_torch():
    code = "import sys, serving.traffic.__main__; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": f"{REPO}:{REPO / 'kernels'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
