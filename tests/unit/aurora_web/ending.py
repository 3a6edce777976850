"""How a process of the console ends, as the threads tell that it has in its last moments."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

from tests.bench.ring import REPO

PROGRAM = """
import atexit, threading, time
def tell():
    print("ending.tell", time.monotonic(), *(thread.name for thread in threading.enumerate()))
atexit.register(tell)  # runs after all that are registered later
import django
django.setup()
{act}
tell()
"""


@dataclass(frozen=True)
class Ending:
    """Names of threads after the last act and when the interpreter ended, and seconds between the two."""

    after_act: list[str]
    left: list[str]
    seconds: float


def ending_after(act: str, **environment: str) -> Ending:
    """Of a process whose last act this is; CalledProcessError when it fails."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(act=act)],
        cwd=REPO,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    told = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ending.tell")]
    (acted_at, *after_act), (left_at, *left) = told
    return Ending(after_act, left, float(left_at) - float(acted_at))
