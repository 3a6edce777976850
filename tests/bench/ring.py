"""A whole Aurora in a fresh state directory for a benchmark: the README's command, the public API, nothing else."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg

REPO = Path(__file__).resolve().parents[2]


# Below those that the system lends to outgoing connections: a server that starts slowly still finds its port free.
LISTENING = range(10_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Loopback ports that were free a moment ago, drawn at random from those that nobody is given unasked."""
    ports: set[int] = set()
    while len(ports) < count:
        port = random.choice(LISTENING)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.add(port)
    return list(ports)


def wait_for(what: str, question: Any, seconds: float, every: float = 0.25) -> Any:
    """Ask ``question()`` until it gives something true, and return that; else TimeoutError naming ``what``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = question()
        if answer:
            return answer
        time.sleep(every)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s")


def says_ok(address: str) -> bool:
    """Whether somebody answers there with 200."""
    try:
        return httpx.get(address, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def manage(environment: dict[str, str], *arguments: str) -> str:
    """What ``manage.py`` printed; RuntimeError with what it complained of when it fails."""
    command = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"manage.py {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def processes_of(state_dir: Path) -> dict[int, str]:
    """pid -> command line of all that got this state directory in its environment, or runs in it.

    The latter are the embedded servers, which get no environment of ours. Of Postgres, all processes.
    """
    told, found = f"AURORA_STATE_DIR={state_dir}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            where, environment = (folder / "cwd").readlink(), (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # ended meanwhile, or another user's
        if told in environment or where.is_relative_to(state_dir.resolve()):
            found[int(folder.name)] = command
    return found


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that everybody may enter, which pytest's own are not: as root, Postgres runs as `nobody`.

    Elsewhere than below the state directory its cluster would be left behind, and its processes not be found.
    """
    with tempfile.TemporaryDirectory(prefix="aurora-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


class Ring:
    """A running Aurora: its addresses, an operator's token, and the calls that a benchmark needs."""

    def __init__(self, state_dir: Path, demo: str = "pocket", **environment: str) -> None:
        self.state_dir = state_dir
        self.web_port, self.engine_port = free_ports(2)
        self.environment = {
            **os.environ,
            **environment,
            "AURORA_DEMO": demo,
            "AURORA_STATE_DIR": str(state_dir),
            "AURORA_WEB_PORT": str(self.web_port),
            "AURORA_ENGINE_PORT": str(self.engine_port),
            "PYTHONPATH": f"{REPO}:{REPO / 'kernels'}",
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.console = httpx.Client(base_url=f"http://127.0.0.1:{self.web_port}/api/v1", timeout=30.0)

    def start(self) -> None:
        """``python -m aurora_web.supervisor up``, and wait until the console is ready; then take a token."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        with (self.state_dir / "up.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "aurora_web.supervisor", "up"],
                cwd=REPO,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        wait_for("the console", self.is_ready, 240)
        token = self.manage("create_token", "--role", "operator", "--name", "bench").split()[-1]
        self.console.headers["Authorization"] = f"Bearer {token}"

    def is_ready(self) -> bool:
        """Whether the console answers and reaches database and broker."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the supervisor ended with {self.process.returncode}: see {self.state_dir / 'up.log'}")
        return says_ok(f"http://127.0.0.1:{self.web_port}/readyz")

    def invite_link(self) -> str:
        """The one-time link that creates the first admin, as ``up`` prints it at its end."""
        pattern = re.compile(r"http\S+/accounts/invite/\S+/")
        found = wait_for("the invite", lambda: pattern.search((self.state_dir / "up.log").read_text()), 120)
        return str(found[0])

    def stop(self) -> None:
        """Stop as Ctrl-C would."""
        self.console.close()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(120)

    def manage(self, *arguments: str) -> str:
        """Run ``manage.py`` with the settings of this ring and return what it printed."""
        return manage(self.environment, *arguments)

    def get(self, path: str, **params: Any) -> Any:
        """GET below /api/v1; RuntimeError when refused."""
        return self._checked(self.console.get(path, params=params))

    def post(self, path: str, body: Any = None) -> Any:
        """POST below /api/v1; RuntimeError when refused."""
        return self._checked(self.console.post(path, json=body))

    def put(self, path: str, body: Any) -> Any:
        """PUT below /api/v1; RuntimeError when refused."""
        return self._checked(self.console.put(path, json=body))

    def patch(self, path: str, body: Any, token: str = "") -> Any:
        """PATCH below /api/v1, as the operator or with another token; RuntimeError when refused."""
        headers = {"Authorization": f"Bearer {token}"} if token else None
        return self._checked(self.console.patch(path, json=body, headers=headers))

    def delete(self, path: str, body: Any = None) -> Any:
        """DELETE below /api/v1; RuntimeError when refused."""
        return self._checked(self.console.request("DELETE", path, json=body))

    def pids(self, part: str) -> list[int]:
        """Processes of this ring whose command line holds ``part``."""
        return [pid for pid, command in processes_of(self.state_dir).items() if part in command]

    def kill(self, part: str, number: int = signal.SIGKILL) -> list[int]:
        """Send a signal to every process that ``pids`` finds; returns them."""
        pids = self.pids(part)
        if not pids:
            raise LookupError(f"no process with {part!r}")
        for pid in pids:
            os.kill(pid, number)
        return pids

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the ring's database."""
        url = json.loads((self.state_dir / "services.json").read_text())["DATABASE_URL"]
        with psycopg.connect(url, autocommit=True) as connection:
            return connection.execute(query, values).fetchall()

    def one(self, query: str, *values: object) -> Any:
        """The first column of the first row."""
        return self.rows(query, *values)[0][0]

    def log(self, name: str) -> str:
        """What a process of the ring has logged."""
        return (self.state_dir / "logs" / f"{name}.log").read_text()

    @staticmethod
    def _checked(answer: httpx.Response) -> Any:
        if answer.is_error:
            raise RuntimeError(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}")
        return answer.json()


@contextmanager
def running_ring(state_dir: Path, demo: str = "pocket", **environment: str) -> Iterator[Ring]:
    """A started ring with more environment variables, stopped at the end whatever happens."""
    ring = Ring(state_dir, demo, **environment)
    try:
        ring.start()
        yield ring
    finally:
        ring.stop()


@contextmanager
def temporary_ring(**environment: str) -> Iterator[Ring]:
    """A started ring with more environment variables, of which nothing is left at the end."""
    with open_directory() as folder, running_ring(folder, **environment) as ring:
        yield ring
