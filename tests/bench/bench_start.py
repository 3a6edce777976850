"""`make up` as a person runs it, by the clock: `python -m tests.bench.bench_start`.

Seconds from the command to the console and the engine being ready (/readyz, and the engine's own /health), each with
`make down` before the next, in copies of this checkout. The first start of one without an environment makes it, of
packages that were downloaded before, as the one of the real LLM was: pip gets nothing from anywhere else. The other
copy has the environment of this checkout: its first start compiles the kernels and fetches the real LLM, and
``--starts`` later ones do neither.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from serving.model_sources.smollm2 import REQUIREMENT
from tests.bench.machine import machine
from tests.bench.ring import REPO, free_ports, open_directory, says_ok, wait_for


def downloaded(folder: Path) -> dict[str, str]:
    """All that a first start downloads, as wheels in ``folder``; the environment in which pip takes it from there."""
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    lists = ("-r", "requirements-torch.txt", "-r", "requirements.txt")
    subprocess.run([*pip, "wheel", "-w", str(folder), *lists], cwd=REPO, check=True)  # like download, for sources too
    subprocess.run([*pip, "wheel", "-w", str(folder), "--no-deps", REQUIREMENT], cwd=REPO, check=True)
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}


def copy_of_the_checkout(folder: Path) -> Path:
    """Tracked files with the times that make compares, and no environment."""
    tracked = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPO / name, folder / name)
    return folder


class Start:
    """One `make up` in a checkout, and its end."""

    def __init__(self, checkout: Path, state_dir: Path, **environment: str) -> None:
        self.web_port, self.engine_port = free_ports(2)
        ports = {"AURORA_WEB_PORT": str(self.web_port), "AURORA_ENGINE_PORT": str(self.engine_port)}
        self._environment = {**os.environ, **environment, **ports, "AURORA_STATE_DIR": str(state_dir)}
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
    with open_directory() as folder:
        bare, wheels = copy_of_the_checkout(folder / "bare"), downloaded(folder / "wheels")
        installing = round(Start(bare, folder / "bare-state", **wheels).seconds(), 1)
        shutil.rmtree(bare)
        checkout = copy_of_the_checkout(folder / "checkout")
        (checkout / ".venv").symlink_to(REPO / ".venv")
        first, *later = [round(Start(checkout, folder / "state").seconds(), 1) for _ in range(1 + given.starts)]
    found = {"first_start_installing": installing, "first_start": first, "later_starts": later}
    print(json.dumps({"machine": machine(), **found}))


if __name__ == "__main__":
    main()
