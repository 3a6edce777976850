"""A whole Aurora with its embedded servers: it comes up, and Ctrl-C leaves neither a process nor a port behind."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.bench.ring import REPO, free_ports
from tests.unit.serving.fakes import wait_until

SECONDS = 120.0  # for each wait; it takes a fraction of that


def processes_with(state: str) -> list[int]:
    """Processes that got this state directory in their environment or on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            said = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
        except OSError:
            continue  # ended meanwhile, or another user's
        if state.encode() in said and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


@pytest.fixture
def aurora(tmp_path):
    """(process, its log, its console, its engine, its state directory) of a supervisor on free ports."""
    web, engine = free_ports(2)
    state, log = tmp_path / "state", tmp_path / "log"
    named = {"AURORA_STATE_DIR": str(state), "AURORA_WEB_PORT": str(web), "AURORA_ENGINE_PORT": str(engine)}
    inherited = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "aurora_web.supervisor", "up"], cwd=REPO, stdout=out, stderr=out,
            env={**inherited, **named, "AURORA_DEMO": "pocket"}, start_new_session=True)  # fmt: skip
    yield process, log, web, engine, state
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(SECONDS)


def test_it_starts_and_leaves_nothing_behind(aurora):
    process, log, web, engine, state = aurora

    def is_ready():
        assert process.poll() is None, log.read_text()
        return "ready after" in log.read_text()

    wait_until(is_ready, SECONDS)
    assert httpx.get(f"http://127.0.0.1:{web}/readyz").status_code == 200
    assert httpx.get(f"http://127.0.0.1:{engine}/health").status_code == 200
    assert len(processes_with(str(state))) > 5
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 0, log.read_text()
    assert "nothing is left running" in log.read_text()
    wait_until(lambda: not processes_with(str(state)), SECONDS)
    for port in (web, engine):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
