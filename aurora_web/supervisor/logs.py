"""Logs that children append to: begun anew when a process starts, set aside while it runs, read from their ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

LIMIT_BYTES = 20 * 1024 * 1024  # of a log; as much again is kept beside it, in LOG.1
LOOK_SECONDS = 10.0  # between two looks at the sizes
TAIL_BYTES = 64 * 1024


def make_room(log: Path) -> None:
    """For a process that is to be started: its folder, and a new file where the old one is over the limit."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LIMIT_BYTES:
        log.replace(_aside(log))


def set_aside(log: Path) -> None:
    """Copy the end of a log beside it and empty it, while processes append to it. Raises OSError; then it stays whole.

    Nobody waits for that, unlike behind a pipe. What is written in the instant between the copy and its end is lost.
    """
    unfinished = log.with_suffix(".log.new")
    try:
        with log.open("r+b") as source, unfinished.open("wb") as copy:
            source.seek(max(0, _size(source) - LIMIT_BYTES))
            for _ in range(2):  # what is there, then what came meanwhile
                copy.write(source.read(_size(source) - source.tell()))
            copy.flush()
            unfinished.replace(_aside(log))
            source.truncate(0)
    except BaseException:  # a full disk, or the end of us
        unfinished.unlink(missing_ok=True)
        raise


def tail(log: Path, num_lines: int = 12) -> str:
    """The last lines of a log file, indented; of TAIL_BYTES at most, however large it is."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, _size(file) - TAIL_BYTES))
            lines = file.read(TAIL_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    return "\n".join(f"    {line}" for line in lines[-num_lines:])


class Logs:
    """The logs of one folder, kept short. ``say`` gets why one cannot be; ``clock`` counts seconds."""

    def __init__(self, folder: Path, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.say = say
        self.clock = clock
        self._looked_at = clock()
        self._stuck: set[Path] = set()

    def look(self) -> None:
        """Set aside what is over the limit; to be called as often as one likes."""
        if self.clock() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = self.clock()
        for log in self.folder.glob("*.log"):
            self._look_at(log)

    def _look_at(self, log: Path) -> None:
        """Where it cannot be set aside now, that is said once, and tried again at each look."""
        try:
            if log.stat().st_size > LIMIT_BYTES:
                set_aside(log)
        except OSError as error:
            if log not in self._stuck:
                self.say(f"{log} has more than {LIMIT_BYTES >> 20} MiB and cannot be set aside: {error}")
            self._stuck.add(log)
        else:
            self._stuck.discard(log)


def _aside(log: Path) -> Path:
    return log.with_suffix(".log.1")


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size
