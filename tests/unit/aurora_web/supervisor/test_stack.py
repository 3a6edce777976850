"""What a stack does where something can't be had, or has been killed."""

import json
import os
import signal
import time

import psycopg
import pytest
import redis

from aurora_web.supervisor import stack as stacks
from aurora_web.supervisor.config import SupervisorConfig
from aurora_web.supervisor.demo import Demo
from aurora_web.supervisor.stack import Stack


@pytest.fixture
def stack(open_dir):
    """A stack without anything started, and what it says."""
    said = []
    config = SupervisorConfig.from_environment({"AURORA_STATE_DIR": str(open_dir / "state")})
    config.logs.mkdir(parents=True)
    made = Stack(config, said.append)
    yield made, said
    made.stop()


def test_without_the_package_the_start_goes_on_with_the_pocket_target(stack):
    """pip really runs, and is told to ask nobody."""
    stack, said = stack
    environment = stack.config.child_environment("", "")
    environment |= {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": "/dev/null"}
    demo = stack._prepare_demo(environment)
    assert demo.name == "pocket"
    assert any("could not be fetched with pip" in line for line in said)
    assert any("the next start tries smollm2 again" in line for line in said)
    config = json.loads((stack.config.models / "pocket" / "config.json").read_text())
    assert config["num_hidden_layers"] >= 7
    demo.remember(stack.config.state_dir)
    assert Demo.choose("", stack.config.state_dir).name == "smollm2"


def watch_until(stack, condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        stack.watch()


def test_killed_servers_are_started_again_with_what_they_had(stack):
    stack, said = stack
    stack.services.start()
    with psycopg.connect(stack.services.database_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    broker = redis.Redis.from_url(stack.services.redis_url)
    broker.rpush("queue", "message")
    servers = (stack.services.postgres, stack.services.valkey)
    killed = [server.process.pid for server in servers]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    watch_until(stack, lambda: not {server.process.pid for server in servers} & set(killed))
    with psycopg.connect(stack.services.database_url) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    assert broker.llen("queue") == 1
    assert any("Postgres ended with -9" in line for line in said)


def test_a_server_that_does_not_come_up_is_tried_again_and_ends_nothing(stack, monkeypatch):
    monkeypatch.setattr(stacks, "SERVICE_RETRY_SECONDS", 0.0)
    stack, said = stack
    stack.services.start()
    manifest = next(stack.services.valkey.folder.rglob("*.manifest"))
    honest = manifest.read_text()
    manifest.write_text("no manifest\n")
    os.kill(stack.services.valkey.process.pid, signal.SIGKILL)
    watch_until(stack, lambda: any("Valkey is tried again" in line for line in said))
    manifest.write_text(honest)
    watch_until(stack, lambda: stack.services.valkey.process.poll() is None)
    assert redis.Redis.from_url(stack.services.redis_url).ping()
