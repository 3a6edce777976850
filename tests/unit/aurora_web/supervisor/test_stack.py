"""What a stack does where something can't be had, does not come, or has been killed."""

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest
import redis

from aurora_web.supervisor import __main__ as command
from aurora_web.supervisor import logs
from aurora_web.supervisor import stack as stacks
from aurora_web.supervisor.config import SupervisorConfig
from aurora_web.supervisor.demo import Demo
from aurora_web.supervisor.ports import is_free
from aurora_web.supervisor.programs import Programs
from aurora_web.supervisor.stack import Stack
from tests.bench.ring import free_ports
from tests.unit.serving.fakes import wait_until


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


@pytest.mark.parametrize("is_elsewhere", [True, False])
def test_a_database_that_lies_elsewhere_is_announced(stack, capfd, is_elsewhere):
    stack, _ = stack
    stack.services.postgres.is_elsewhere = is_elsewhere
    command._announce(stack.config, stack, 1.0)
    assert (f"database       {stack.services.postgres.folder} " in capfd.readouterr().out) == is_elsewhere


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


def test_a_stack_that_is_watched_keeps_its_logs_short(stack, monkeypatch):
    monkeypatch.setattr(logs, "LIMIT_BYTES", 10)
    monkeypatch.setattr(logs, "LOOK_SECONDS", 0.0)
    stack, _ = stack
    log = stack.config.logs / "web.log"
    log.write_text("more than ten bytes")
    stack.watch()
    assert (log.read_text(), log.with_suffix(".log.1").stat().st_size) == ("", 10)


SERVER = """
import http.server, pathlib, socket, sys

class Yes(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        if self.path == "/api/v1/engines":
            self.wfile.write(pathlib.Path(sys.argv[3]).read_bytes())

class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET

Server((sys.argv[1], int(sys.argv[2])), Yes).serve_forever()
"""
BROKEN = "import sys; sys.exit('error: no such model')"
SILENT = "import time; time.sleep(600)"
GO = "go"  # a slow engine answers once this is there
SLOW = f"""
import os, sys, time

while not os.path.exists(sys.argv[3]):
    time.sleep(0.01)
{SERVER}"""
WANTED = "wanted.json"  # which engines the console says are to run


def want(state_dir, *slugs):
    """The console wants engines of these from now on; what it says."""
    said = {"engines": [{"slug": slug, "path": "", "enabled": True} for slug in slugs]}
    (state_dir / "unfinished").write_text(json.dumps(said))
    (state_dir / "unfinished").replace(state_dir / WANTED)
    return said["engines"]


class SmallPrograms(Programs):
    """Programs that only answer, or do what their target's slug says."""

    def web(self):
        wanted = str(self.config.state_dir / WANTED)
        return self._python("web", "-c", SERVER, self.config.web_host, str(self.config.web_port), wanted)

    def engine(self, slug, path, port):
        code = {"broken": BROKEN, "silent": SILENT, "slow": SLOW}.get(slug, SERVER)
        told = str(self.config.state_dir / GO)
        program = self._python(f"engine-{slug}", "-c", code, self.config.engine_host, str(port), told)
        return replace(program, command=("/nowhere/python",)) if slug == "missing" else program

    def worker(self):
        return self._python("worker", "-c", SILENT)

    def trainer(self):
        return self._python("trainer", "-c", SILENT)

    def beat(self):
        return self._python("beat", "-c", SILENT)

    def traffic(self):
        return self._python("traffic", "-c", SILENT)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a stack of small programs with engines for these slugs, the first port given; it and what it says.

    ``meanwhile`` is called with it on a thread of its own.
    """
    monkeypatch.setattr(stacks, "Programs", SmallPrograms)
    made = []

    def begin(*slugs, first_port=None, meanwhile=lambda stack: None, **more):
        web, engine = free_ports(2)
        given = {"AURORA_STATE_DIR": str(tmp_path), "AURORA_DEMO": "none", "AURORA_WEB_PORT": str(web)}
        given |= {"AURORA_ENGINE_PORT": str(first_port or engine)}
        given |= {"DATABASE_URL": "postgresql:///own", "REDIS_URL": "redis://own/0"}
        said = []
        stack = Stack(SupervisorConfig.from_environment(given | more), said.append)
        made.append(stack)
        facts = json.dumps({"replica_token": "secret", "invite": "", "engines": want(tmp_path, *slugs)})
        monkeypatch.setattr(stack, "_run_once", lambda *_, **__: facts)
        with ThreadPoolExecutor(1) as pool:
            doing = pool.submit(meanwhile, stack)
            stack.start()
            doing.result()
        return stack, said

    yield begin
    for stack in made:
        stack.stop()


def test_an_engine_that_does_not_start_costs_only_itself(start, capfd):
    stack, said = start("broken", "good")
    sentence = next(line for line in said if "without the engine of broken" in line)
    log = str(stack.config.logs / "engine-broken.log")
    assert "ended with 1 and is tried again" in sentence and log in sentence and "no such model" in sentence
    assert any("engine-broken ended with 1; starting again" in line for line in said)
    assert {"web", "worker", "trainer", "engine-good"} <= stack.children.keys()
    command._announce(stack.config, stack, 1.0)
    shown = capfd.readouterr().out
    good = next(engine for engine in stack.engines() if engine.slug == "good")
    assert f"{good.url}/v1  (model good)" in shown and f"does not answer yet, see {log}  (model broken)" in shown
    wait_until(stack.children["engine-broken"].watch)  # started once more


def test_the_console_stays_where_the_only_engine_does_not_start(start):
    stack, said = start("broken")
    assert any("without the engine of broken" in line for line in said)
    assert stack._answers(f"{stack.console}/readyz")


def test_an_engine_that_no_process_can_be_had_for_costs_only_itself(start):
    stack, said = start("missing", "good")
    assert any("without the engine of missing, which could not be started and is tried again" in line for line in said)
    assert stack.answers(stack.engines()[1])


def test_an_engine_that_does_not_answer_is_waited_for_so_long_and_left_to_go_on(start, monkeypatch):
    monkeypatch.setattr(stacks, "ENGINE_SECONDS", 1.0)
    stack, said = start("silent")
    assert any("without the engine of silent, which does not answer after 1 s" in line for line in said)
    assert stack.children["engine-silent"].process.poll() is None


def test_while_an_engine_is_waited_for_all_else_runs_and_is_watched(start, monkeypatch, tmp_path):
    """Nothing but the console's list ends this start: the engine comes neither up nor down."""
    monkeypatch.setattr(stacks, "HEAD_START_SECONDS", 0.0)
    seen = []

    def process(stack, name):
        return child.process if (child := stack.children.get(name)) else None

    def another(stack, name, found):
        ended = found()
        os.kill(ended.pid, signal.SIGKILL)
        wait_until(lambda: found() is not None and found() is not ended)
        seen.append(name)

    def meanwhile(stack):
        try:
            for name in ("web", "worker", "beat", "trainer"):
                wait_until(lambda name=name: process(stack, name))
            another(stack, "trainer", lambda: process(stack, "trainer"))
            another(stack, "Valkey", lambda: stack.services.valkey.process)
            want(tmp_path, "silent", "late")
            wait_until(lambda: process(stack, "engine-late"))
            seen.append("silent" if process(stack, "engine-silent").poll() is None else "ended")
        finally:
            want(tmp_path, "late")

    stack, said = start("silent", meanwhile=meanwhile, REDIS_URL="")
    assert seen == ["trainer", "Valkey", "silent"]
    assert not any("without the engine" in line for line in said)
    assert [engine.slug for engine in stack.engines()] == ["late"]


def test_the_workers_leave_the_machine_to_an_engine_that_comes_in_time(start, monkeypatch, tmp_path):
    monkeypatch.setattr(stacks, "HEAD_START_SECONDS", 3600.0)
    seen = []

    def meanwhile(stack):
        try:
            wait_until(lambda: "traffic" in stack.children)
            want(tmp_path, "slow", "late")
            wait_until(lambda: "engine-late" in stack.children)
            seen.extend(stack.children)
        finally:
            (tmp_path / GO).touch()

    stack, _ = start("slow", meanwhile=meanwhile)
    assert seen == ["engine-slow", "web", "traffic", "engine-late"]
    assert list(stack.children) == [*seen, "worker", "beat", "trainer"]
    assert stack.answers(stack.engines()[0])


def test_an_engine_whose_port_another_program_took_gets_the_next_one(start, tmp_path):
    with socket.socket() as program:
        program.bind(("127.0.0.1", 0))
        program.listen()
        taken = program.getsockname()[1]
        (tmp_path / "engines.json").write_text(json.dumps({"good": taken - 1, "moved": taken}))
        stack, said = start("moved", first_port=taken - 1)
        [moved] = stack.engines()
        port = int(moved.url.rpartition(":")[2])
        assert port > taken and stack.answers(moved)
        assert f"another program listens on port {taken}: the engine of moved takes {port} until the next start" in said


def test_targets_without_a_port_are_told_of_once_and_cost_nobody_else(start):
    stack, said = start("good", first_port=65535)
    wanted = [{"slug": slug, "path": "", "enabled": True} for slug in ("good", "late")]
    assert not stack._follow(wanted) and not stack._follow(wanted)
    assert said.count("no free port from 65535 on for the engine of late") == 1
    assert list(stack.children) == ["engine-good", "web", "traffic", "worker", "beat", "trainer"]


def test_a_host_may_be_an_ipv6_address(start):
    if not is_free("::1", 0):
        pytest.skip("this machine has no IPv6")
    stack, said = start("good", AURORA_WEB_HOST="::1", AURORA_ENGINE_HOST="::1")
    assert f"the console answers: http://[::1]:{stack.config.web_port}" in said
    [good] = stack.engines()
    assert good.url.startswith("http://[::1]:") and stack.answers(good)
