"""The traffic generator as a client: it follows the console's plan, shifts on schedule, and survives both ends."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serving.traffic.__main__ import Plan
from tests.bench.ring import REPO
from tests.unit.serving.fakes import ConsoleServer, wait_until

PLAN = {
    "slug": "demo",
    "engine_url": "http://127.0.0.1:1",
    "enabled": True,
    "concurrency": 2,
    "requests_per_second": 0.0,
    "mix": {"sql": 1},
    "max_tokens": 8,
    "sampled_share": 0.5,
    "schedule": [],
}


def test_a_schedule_goes_round():
    plan = Plan.from_json(
        PLAN | {"schedule": [{"seconds": 10, "mix": {"sql": 1}}, {"seconds": 5, "mix": {"prose": 1}}]}
    )
    assert [next(iter(plan.mix_at(t))) for t in (0, 9.9, 10, 14.9, 15, 25)] == [
        "sql",
        "sql",
        "prose",
        "prose",
        "sql",
        "prose",
    ]


def test_unknown_domains_are_left_out():
    assert set(Plan.from_json(PLAN | {"mix": {"poetry": 1}}).mix) == {
        "python_code",
        "prose",
        "arithmetic",
        "sql",
        "json_tools",
    }


@pytest.mark.parametrize("change", [{"mix": 3}, {"concurrency": "many"}, {"schedule": [{"at": 1}]}])
def test_a_plan_that_is_none_is_explained(change):
    with pytest.raises(ValueError, match=r"traffic plan|many"):
        Plan.from_json(PLAN | change)


class Engine:
    """Counts what it is asked; a real HTTP server."""

    def __init__(self):
        self.asked = []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                import json

                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                engine.asked.append((self.headers["x-aurora-domain"], body))
                answer = b'{"usage": {"completion_tokens": 8}}'
                self.send_response(200)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_the_process_follows_the_console():
    engine, server = Engine(), ConsoleServer()
    server.console.traffic = {"targets": [PLAN | {"engine_url": engine.url, "requests_per_second": 50}]}
    environment = {
        **os.environ,
        "AURORA_CONSOLE_URL": server.console.url,
        "AURORA_REPLICA_TOKEN": "secret",
        "PYTHONPATH": f"{REPO}:{REPO / 'kernels'}",
    }
    process = subprocess.Popen([sys.executable, "-m", "serving.traffic"], env=environment)
    try:
        wait_until(lambda: len(engine.asked) > 20, 30)
        assert {domain for domain, _ in engine.asked} == {"sql"}
        assert {body["temperature"] for _, body in engine.asked} == {0.0, 0.8}
        prompts = [body["prompt"] for _, body in engine.asked]
        assert len(set(prompts)) == len(prompts)
        assert "Bearer secret" in server.console.tokens
        server.stop()  # the console is away: the last plan goes on
        count = len(engine.asked)
        wait_until(lambda: len(engine.asked) > count + 20, 60)
        server.console.traffic["targets"][0]["enabled"] = False
        server.start()

        def is_quiet():
            seen = len(engine.asked)
            asyncio.run(asyncio.sleep(1.0))
            return len(engine.asked) == seen

        wait_until(is_quiet, 60)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        server.stop()
        engine.server.shutdown()
