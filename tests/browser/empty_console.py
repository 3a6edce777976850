"""A console with nothing behind it: a new database, no target, no worker, no engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from aurora_web.supervisor.valkey import Valkey
from tests.bench.ring import REPO, free_ports, manage, wait_for
from tests.services import new_database


@dataclass(frozen=True)
class EmptyConsole:
    """Where it is, how to ask its ``manage.py``, and the broker that nobody else has."""

    base: str
    environment: dict[str, str]
    valkey: Valkey

    def manage(self, *arguments: str) -> str:
        return manage(self.environment, *arguments)


@contextmanager
def empty_console(folder: Path) -> Iterator[EmptyConsole]:
    """In a database and with a broker of its own."""
    valkey = Valkey(folder / "valkey", folder / "valkey.log")
    valkey.start()
    [port] = free_ports(1)
    environment = {
        **os.environ,
        "AURORA_STATE_DIR": str(folder),
        "AURORA_WEB_PORT": str(port),
        "DATABASE_URL": new_database(),
        "REDIS_URL": valkey.url,
        "PYTHONPATH": f"{REPO}:{REPO / 'kernels'}",
    }
    found = EmptyConsole(f"http://127.0.0.1:{port}", environment, valkey)
    found.manage("migrate", "--verbosity", "0")
    command = [sys.executable, "-m", "uvicorn", "aurora_web.asgi:application", "--port", str(port), "--no-access-log"]
    with (folder / "web.log").open("wb") as log:
        web = subprocess.Popen(command, cwd=REPO, env=environment, stdout=log, stderr=log)
    try:
        wait_for("the empty console", lambda: _answers(f"{found.base}/readyz"), 180)
        yield found
    finally:
        web.terminate()
        web.wait(20)
        valkey.stop()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False
