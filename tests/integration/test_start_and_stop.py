"""The README's command: a whole Aurora comes up, somebody signs in, and Ctrl-C leaves neither a process nor a port."""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from tests.bench.bench_live import CHROMIUM
from tests.bench.ring import REPO, free_ports, open_directory, processes_of
from tests.browser.conftest import accept, sign_in
from tests.unit.serving.fakes import wait_until

SECONDS = 120.0  # for each wait; it takes a fraction of that
INVITE = re.compile(r"http\S+/accounts/invite/\S+/")
STARTED = ("bin/postgres", "valkey-server", "-m serving --target", "-m celery", "aurora_web.asgi:application")
STARTERS = ("make up", "aurora_web.supervisor up")


@pytest.fixture
def folder():
    with open_directory() as found:
        yield found


@pytest.fixture
def aurora(folder):
    """(``make up``, its log, its console, its engine, its state directory, its environment) on free ports."""
    web, engine = free_ports(2)
    state, log = folder / "state", folder / "log"
    named = {"AURORA_STATE_DIR": str(state), "AURORA_WEB_PORT": str(web), "AURORA_ENGINE_PORT": str(engine)}
    foreign = ("DATABASE_URL", "REDIS_URL", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in foreign} | named
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["make", "up", "DEMO=pocket"], cwd=REPO, stdout=out, stderr=out, env=environment, start_new_session=True
        )
    yield process, log, web, engine, state, environment
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(SECONDS)


def sign_in_for_the_first_time(log: Path, base: str) -> None:
    """The first admin's account by the link that the start printed, then its name and password in a fresh browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        accept(browser, INVITE.search(log.read_text())[0], "ada")
        page = sign_in(browser, base, "ada", "/targets/pocket/")
        expect(page.get_by_role("heading", name="Pocket target")).to_be_visible()
        expect(page.locator("#live")).to_have_text("connected")
        browser.close()


def test_it_starts_lets_somebody_in_and_leaves_nothing_behind(aurora):
    process, log, web, engine, state, environment = aurora

    def is_ready():
        assert process.poll() is None, log.read_text()
        return "first admin" in log.read_text()

    wait_until(is_ready, SECONDS)
    assert httpx.get(f"http://127.0.0.1:{web}/readyz").status_code == 200
    assert httpx.get(f"http://127.0.0.1:{engine}/health").status_code == 200
    running = " ".join(processes_of(state).values())
    assert all(each in running for each in STARTED), running
    status = subprocess.run(["make", "status"], cwd=REPO, env=environment, capture_output=True, text=True, check=True)
    assert f"http://127.0.0.1:{web}" in status.stdout
    sign_in_for_the_first_time(log, f"http://127.0.0.1:{web}")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to make and to what it runs
    wait_until(lambda: "nothing is left running" in log.read_text(), SECONDS)
    left = [each for each in processes_of(state).values() if not any(starter in each for starter in STARTERS)]
    assert left == []
    process.wait(SECONDS)
    wait_until(lambda: not processes_of(state), SECONDS)
    for port in (web, engine):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
