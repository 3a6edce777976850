"""One supervised process: started, watched, restarted with growing waits for as long as it is wanted."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from aurora_web.supervisor.process import start, start_time, stop

STEADY_SECONDS = 30.0  # a process that lived this long has recovered
MOST_WAIT_SECONDS = 30.0
MOST_TOLD = 12  # quick ends in a row that are told; it is tried on, and `make status` has it


@dataclass(frozen=True, slots=True)
class Program:
    """What to run."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    cwd: Path
    log: Path
    niceness: int = 0
    stop_seconds: float = 15.0


@dataclass(slots=True)
class Child:
    """A program and the process that runs it now. ``clock`` counts seconds and never goes back."""

    program: Program
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    process: subprocess.Popen[bytes] | None = None
    num_failures: int = 0
    _started_at: float = field(default=0.0)
    _not_before: float = field(default=0.0)

    @property
    def is_down(self) -> bool:
        """Whether it has ended and waits for its next start."""
        return self.process is None and self.num_failures > 0

    @property
    def identity(self) -> tuple[int, str] | None:
        """(pid, kernel start time) of the running process."""
        return (self.process.pid, start_time(self.process.pid)) if self.process else None

    def watch(self) -> bool:
        """Start it where it does not run and may; True when a process was started."""
        if self.process is not None and self.process.poll() is not None:
            self._ended(self.process.returncode)
        if self.process is not None or self.clock() < self._not_before:
            return False
        program = self.program
        self._started_at = self.clock()
        try:
            self.process = start(
                program.command,
                log=program.log,
                environment=program.environment,
                cwd=program.cwd,
                niceness=program.niceness,
            )
        except OSError as error:  # no room for its log, or no memory for one process more
            self._failed(f"could not be started ({error})")
            return False
        return True

    def stop(self) -> None:
        """Ask it to end, wait, kill what is left."""
        if self.process is not None:
            stop(self.process, seconds=self.program.stop_seconds)
            self.process = None

    def _ended(self, code: int) -> None:
        assert self.process is not None
        stop(self.process)  # its own children, if any are left
        self.process = None
        self._failed(f"ended with {code}")

    def _failed(self, how: str) -> None:
        steady = self.clock() - self._started_at >= STEADY_SECONDS
        self.num_failures = 1 if steady else self.num_failures + 1
        wait = min(MOST_WAIT_SECONDS, 0.5 * 2.0 ** (self.num_failures - 1))
        self._not_before = self.clock() + wait
        name, log = self.program.name, self.program.log
        if self.num_failures < MOST_TOLD:
            self.say(f"{name} {how}; starting again in {wait:.1f} s (log: {log})")
        elif self.num_failures == MOST_TOLD:
            self.say(f"{name} {how}, {MOST_TOLD} times in a row; it is tried every {wait:.0f} s from now on: see {log}")
