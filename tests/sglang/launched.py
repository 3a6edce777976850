"""Servers that the console's own launch command describes, and clients that keep them busy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.traffic.domains.registry import get_domain
from tests.bench.ring import Ring, running_ring, wait_for
from tests.services import new_database
from tests.sglang.server import DEVICE, LOOKAHEAD, ON_DEVICE, SMALL, Server, with_missing

VARIANTS = {"cpu": "cpu", "cuda": "gpu"}  # of the console's launch command, by the device that the tests run on
SLUG = "on-sglang"
DOMAIN = "arithmetic"
CLIENTS = 6


@contextmanager
def ring_in(folder: Path, **policy: Any) -> Iterator[Ring]:
    """A ring with a database and a broker of its own, and the pocket target registered as one on SGLang."""
    folder.parent.chmod(0o755)  # Postgres runs as nobody where we are root
    folder.chmod(0o755)
    with running_ring(folder, DATABASE_URL=new_database(), REDIS_URL="") as ring:
        registered(ring, **policy)
        yield ring


def registered(ring: Ring, **policy: Any) -> None:
    """The pocket target as one on SGLang, with an admin's token for all that follows."""
    admin = ring.manage("create_token", "--role", "admin", "--name", "test").split()[-1]
    ring.console.headers["Authorization"] = f"Bearer {admin}"
    ring.patch("/targets/pocket", {"is_active": False})  # its embedded engine would share these two cores
    target = str(ring.state_dir / "models" / "pocket")
    given = {"source": "sglang", "path": target, "slug": SLUG, "name": "x"}
    ring.post("/targets", {**given, "policy": {"max_lookahead": LOOKAHEAD, **policy}})


def launch_of(ring: Ring, replica: int = 1) -> tuple[dict[str, Any], str]:
    """(the command of the replica of that number, which serves version 1; a token for it)."""

    def ready() -> dict[str, Any] | None:
        launch: dict[str, Any] = ring.get(f"/targets/{SLUG}/launch", variant=VARIANTS[DEVICE], replica=replica)
        return launch if launch["is_ready"] else None

    launch = wait_for("version 1 and the command that serves it", ready, 60)
    return launch, ring.post(f"/targets/{SLUG}/replica-token")["token"]


class Launched(Server):
    """The server that the console's own launch command describes, on a port that is free, and small."""

    def __init__(self, folder: Path, launch: dict[str, Any], token: str) -> None:
        super().__init__(folder, folder, folder)
        kept = {name: value for name, value in launch["environment"].items() if name != "AURORA_ENGINE_URL"}
        self.environment |= {**kept, launch["token_variable"]: token, "AURORA_ENGINE_URL": self.url}
        arguments = list(launch["arguments"])
        arguments[arguments.index("--port") + 1] = str(self.port)
        self._arguments = with_missing(arguments, ON_DEVICE[DEVICE] | SMALL)

    def arguments(self) -> list[str]:
        return self._arguments


class Clients:
    """Requests of one domain, some at once, until they are stopped; every one must be answered."""

    def __init__(self, server: Server, num: int = CLIENTS) -> None:
        self.server = server
        self.num_served = 0
        self.errors: list[Exception] = []
        self._stopped = threading.Event()
        self._prompts = get_domain(DOMAIN).prompts(7)
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(num)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                prompt = next(self._prompts).text
            body = {"model": SLUG, "prompt": prompt, "max_tokens": 64, "temperature": 0}
            try:
                answer = self.server.http.post("/v1/completions", json=body, headers={"x-aurora-domain": DOMAIN})
                answer.raise_for_status()
                self.num_served += 1
            except Exception as error:  # noqa: BLE001  the test looks at it
                self.errors.append(error)
                return

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
