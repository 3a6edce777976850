"""``up`` from its start to its end, with small processes: it stops them in order whoever reads what it says, and what
it cannot write down ends nothing."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from aurora_web.supervisor import __main__ as command
from aurora_web.supervisor.config import REPO, SupervisorConfig
from tests.bench.ring import free_ports
from tests.unit.serving.fakes import wait_until

# The command itself, with a stack whose children only tell that they run, and that they were asked to end.
UP = """
import os, sys
from aurora_web.supervisor import __main__ as command
from aurora_web.supervisor.child import Program
from aurora_web.supervisor.config import REPO
from aurora_web.supervisor.stack import Stack

class SmallStack(Stack):
    def start(self):
        for name in os.environ["OBSTACLES"].split():
            (self.config.state_dir / name).mkdir()
        for name in ("web", "engine-demo", "traffic"):
            told = (str(self.config.state_dir / f"{name}.started"), str(self.config.state_dir / "ended"), name)
            command = (sys.executable, "-c", os.environ["TELL"], *told)
            self._add(Program(name, command, dict(os.environ), REPO, self.config.logs / f"{name}.log"))

    def engines(self):
        return []

    def _follow_targets(self):
        return False

command.Stack = SmallStack
sys.argv[1:] = ["up"]
sys.exit(command.main())
"""
TELL = """
import pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
started, ended, name = sys.argv[1:]
if pathlib.Path(started).with_suffix(".broken").exists():
    sys.exit(1)
print("started", file=open(started, "a"))
signal.sigwait({signal.SIGTERM})
print(name, file=open(ended, "a"))
"""
NAMES = ("web", "engine-demo", "traffic")
SECONDS = 60.0  # for each wait; it takes a fraction of that


class Up:
    """The process, what it keeps, and its processes."""

    def __init__(self, state, output, obstacles=""):
        web, engine = free_ports(2)
        named = {"AURORA_STATE_DIR": str(state), "AURORA_WEB_PORT": str(web), "AURORA_ENGINE_PORT": str(engine)}
        environment = {name: text for name, text in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
        environment |= named | {"TELL": TELL, "OBSTACLES": obstacles}
        self.state = state
        self.process = subprocess.Popen(
            [sys.executable, "-c", UP], cwd=REPO, env=environment, stdout=output, stderr=output, start_new_session=True
        )

    def pids(self):
        """Of its processes, as it has written them down; [] = not yet."""
        file = self.state / "children.json"
        return [pid for pid, _ in json.loads(file.read_text())] if file.exists() else []

    def is_running(self):
        assert self.process.poll() is None
        return len(self.pids()) == len(NAMES) and all((self.state / f"{name}.started").exists() for name in NAMES)


@pytest.fixture
def up(tmp_path):
    """up(output): ``up`` with its three processes at work, on a state directory of its own.

    ``obstacles``: directories that are in it once it has begun to start.
    """
    made = []

    def begin(output, **more):
        made.append(Up(tmp_path / "state", output, **more))
        wait_until(made[-1].is_running, SECONDS)
        return made[-1]

    yield begin
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
        each.process.wait(SECONDS)


@contextmanager
def pipe_of(up):
    """(``up`` that writes into a pipe, the ends of the pipe)."""
    reader, writer = os.pipe()
    try:
        yield up(writer), reader, writer
    finally:
        os.close(writer)


def stop(running, number):
    """In order, with nothing left, and exit status 0."""
    pids = running.pids()
    running.process.send_signal(number)
    assert running.process.wait(SECONDS) == 0
    assert (running.state / "ended").read_text().split() == ["traffic", "engine-demo", "web"]
    assert all(is_gone(pid) for pid in pids)
    assert not (running.state / "supervisor.json").exists() and not (running.state / "children.json").exists()


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_it_stops_in_order_and_says_so(up, tmp_path):
    with (tmp_path / "out").open("wb") as output:
        running = up(output)
    stop(running, signal.SIGINT)
    assert (tmp_path / "out").read_text().endswith("Aurora: stopping\nAurora: stopped; nothing is left running\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_where_the_reader_of_its_output_is_gone(up, number):
    """As after `make up | tee log` and Ctrl-C, or `make up | grep -m1 admin` and `make down`."""
    with pipe_of(up) as (running, reader, _writer):
        os.close(reader)
        stop(running, number)


def test_it_stops_where_its_terminal_was_closed(up):
    terminal, end = pty.openpty()
    running = up(end)
    os.close(end)
    os.close(terminal)
    stop(running, signal.SIGHUP)


def test_it_stops_where_nobody_reads_on(up):
    """As behind a pager that waits, or on a paused terminal."""
    with pipe_of(up) as (running, reader, writer):
        os.set_blocking(writer, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)  # which is the pipe's, not only ours
        stop(running, signal.SIGTERM)
        os.close(reader)


def test_without_a_reader_a_process_that_ends_is_started_again(up):
    with pipe_of(up) as (running, reader, _writer):
        os.close(reader)
        before = running.pids()
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: len({*running.pids()} - {*before}) == 1, SECONDS)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(SECONDS) == 0


def test_status_names_what_is_down_with_how_often_it_has_ended(up, tmp_path, capfd):
    config = SupervisorConfig.from_environment({"AURORA_STATE_DIR": str(tmp_path / "state")})

    def status():
        assert command.status(config) == 0
        return capfd.readouterr().out

    with (tmp_path / "out").open("wb") as output:
        running = up(output)
    assert "is down" not in status()
    broken = running.state / "traffic.broken"
    broken.touch()
    os.kill(running.pids()[NAMES.index("traffic")], signal.SIGKILL)
    told = rf"Aurora: traffic is down: it has ended [2-9] times in a row.*{config.logs / 'traffic.log'}"
    wait_until(lambda: re.search(told, status()), SECONDS)
    assert "web is down" not in status()
    broken.unlink()
    wait_until(lambda: (running.state / "traffic.started").read_text().split() == ["started"] * 2, SECONDS)
    wait_until(lambda: "is down" not in status(), SECONDS)
    stop(running, signal.SIGINT)


def test_what_cannot_be_written_down_ends_nothing_and_is_written_later(up, tmp_path):
    """A directory in the place of a file refuses to be written, as a full disk does."""
    with (tmp_path / "out").open("wb") as output:
        running = up(output, obstacles="supervisor.new")
    assert "goes on saying that this is starting" in (tmp_path / "out").read_text()
    before, obstacle = running.pids(), running.state / "children.new"
    obstacle.mkdir()
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: b"is not written down" in (tmp_path / "out").read_bytes(), SECONDS)
    assert running.process.poll() is None and running.pids() == before
    obstacle.rmdir()
    wait_until(lambda: len({*running.pids()} - {*before}) == 1, SECONDS)
    assert (tmp_path / "out").read_text().count("is not written down") == 1
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(SECONDS) == 0


def test_a_start_that_cannot_say_that_it_is_one_names_the_directory(tmp_path):
    state = tmp_path / "state"
    (state / "supervisor.new").mkdir(parents=True)
    with (tmp_path / "out").open("wb") as output:
        process = Up(state, output).process
    assert process.wait(SECONDS) == 2
    said = (tmp_path / "out").read_text()
    assert f"AURORA_STATE_DIR='{state}' cannot be used" in said and "Traceback" not in said
