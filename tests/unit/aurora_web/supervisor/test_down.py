"""``down`` beside a supervisor that has not said yet who it is, that ends by itself, or that is not there."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from aurora_web.supervisor import __main__ as command
from aurora_web.supervisor.claim import Claim
from aurora_web.supervisor.config import REPO, SupervisorConfig
from tests.unit.serving.fakes import wait_until

SECONDS = 60.0
# One that holds the claim and says who it is when it is told to, as after checking the servers that it was given.
HOLDER = """
import pathlib, signal, sys, time
from aurora_web.supervisor.claim import Claim
state = pathlib.Path(sys.argv[1])
claim = Claim(state)
assert claim.take()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
(state / "held").touch()
while not (state / "checked").exists():
    time.sleep(0.01)
claim.write({"console": "http://127.0.0.1:8000", "state": "starting"})
signal.sigwait({signal.SIGTERM})
claim.release()
"""


@pytest.fixture
def config(tmp_path):
    return SupervisorConfig.from_environment({"AURORA_STATE_DIR": str(tmp_path)})


@pytest.fixture
def sightings(monkeypatch):
    """What ``holder`` has answered."""
    answers, honest = [], Claim.holder
    monkeypatch.setattr(Claim, "holder", lambda claim: answers.append(honest(claim)) or answers[-1])
    return answers


def test_one_that_is_about_to_say_who_it_is_is_stopped_then(config, sightings, capfd):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(config.state_dir)], cwd=REPO)
    try:
        wait_until((config.state_dir / "held").exists, SECONDS)
        with ThreadPoolExecutor(1) as pool:
            down = pool.submit(command.down, config)
            wait_until(lambda: sightings, SECONDS)
            assert sightings[0] is None
            (config.state_dir / "checked").touch()
            assert holder.wait(SECONDS) == 0
            assert down.result() == 0
    finally:
        holder.kill()
        holder.wait()
    assert capfd.readouterr().out == "Aurora: stopped\n"


def test_one_that_ends_before_it_is_asked_is_no_error(config, monkeypatch, capfd):
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    holder = Claim(config.state_dir)
    assert holder.take()

    def answer(claim):
        holder.release()
        return {"pid": ended.pid, "started": "1"}

    monkeypatch.setattr(Claim, "holder", answer)
    assert command.down(config) == 0
    assert capfd.readouterr().out == "Aurora: stopped\n"


def test_one_that_does_not_stop_is_asked_once_and_said(config, monkeypatch, capfd):
    asked = []
    monkeypatch.setattr(command, "STOP_SECONDS", 0.5)
    monkeypatch.setattr(os, "kill", lambda pid, number: asked.append((pid, number)))
    holder = Claim(config.state_dir)
    assert holder.take()
    holder.write({"console": "", "state": "running"})
    assert command.down(config) == 1
    holder.release()
    assert asked == [(os.getpid(), signal.SIGTERM)]
    assert "did not stop within" in capfd.readouterr().out


def test_without_one_that_is_said(config, capfd):
    assert command.down(config) == 0
    assert capfd.readouterr().out == "Aurora: was not running\n"
