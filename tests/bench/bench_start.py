"""`make up` as a person runs it, by the clock: `python -m tests.bench.bench_start`.

In a copy of this checkout with its environment, so that the first start compiles the kernels and fetches the real LLM:
seconds from the command to the console and the engine being ready (/readyz, and the engine's own /health), at the first
start and at ``--starts`` later ones, each with `make down` in between.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.machine import machine
from tests.bench.ring import REPO, free_ports, says_ok, wait_for


def copy_of_the_checkout(folder: Path) -> Path:
    """Tracked files with the times that make compares, and the environment of this checkout."""
    tracked = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPO / name, folder / name)
    (folder / ".venv").symlink_to(REPO / ".venv")
    return folder


class Start:
    """One `make up` in a checkout, and its end."""

    def __init__(self, checkout: Path, state_dir: Path) -> None:
        self.web_port, self.engine_port = free_ports(2)
        ports = {"AURORA_WEB_PORT": str(self.web_port), "AURORA_ENGINE_PORT": str(self.engine_port)}
        self._environment = {**os.environ, **ports, "AURORA_STATE_DIR": str(state_dir)}
        self._environment.pop("PYTHONPATH", None)  # make's own
        self._checkout = checkout
        self._log = checkout / "up.log"

    def seconds(self) -> float:
        """From the command until console and engine answer."""
        began = time.monotonic()
        with self._log.open("wb") as log:
            up = subprocess.Popen(["make", "up"], cwd=self._checkout, env=self._environment, stdout=log, stderr=log)
        try:
            for path in (f"{self.web_port}/readyz", f"{self.engine_port}/health"):
                address = f"http://127.0.0.1:{path}"
                wait_for(address, lambda url=address: up.poll() is None and says_ok(url), 600, 0.05)
            return time.monotonic() - began
        finally:
            subprocess.run(["make", "down"], cwd=self._checkout, env=self._environment, check=True, capture_output=True)
            up.wait(120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5, help="after the first one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aurora-bench-") as name:
        Path(name).chmod(0o755)  # Postgres runs as nobody where we are root
        checkout = copy_of_the_checkout(Path(name) / "checkout")
        first, *later = [round(Start(checkout, Path(name) / "state").seconds(), 1) for _ in range(1 + given.starts)]
    print(json.dumps({"machine": machine(), "first_start": first, "later_starts": later}))


if __name__ == "__main__":
    main()
