"""Announcements that wait on disk until the console has acknowledged them; they survive a killed process.

An announcement is one JSON file, complete from the moment that it has its final name. Whoever deletes it says that
the console has it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

COUNTS_PREFIX = "counts-"
REJECTED = "rejected"


class SpoolInUseError(RuntimeError):
    """Another process writes this spool."""

    retryable = False


UNFINISHED = ".tmp"


def write_durably(path: Path, payload: bytes) -> None:
    """Make ``path`` hold ``payload``, or stay as it was: temporary file, fsync, rename, fsync of the directory."""
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # a full disk is not to stay fuller for it
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class KeptFile:
    """What the next start of this process reads. What a full disk refuses is said, kept in mind, and written later."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._refused: bytes | None = None

    def read(self) -> bytes:
        """Raises OSError, FileNotFoundError of one that never was."""
        return self.path.read_bytes() if self._refused is None else self._refused

    def write(self, payload: bytes) -> None:
        """Durable on return, unless the disk refuses it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self.path, payload)
        except OSError as error:
            if self._refused is None:
                log.warning("%s stays as it was until it can be written: %s", self.path, error)
            self._refused = payload
        else:
            self._refused = None

    def catch_up(self) -> None:
        """Write what was refused; nothing happens where nothing was."""
        if self._refused is not None:
            self.write(self._refused)

    def remove(self) -> None:
        self._refused = None
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Announcement:
    """One waiting file and what the console calls its content ("segments" or "counts")."""

    path: Path

    @property
    def kind(self) -> str:
        return "counts" if self.path.name.startswith(COUNTS_PREFIX) else "segments"


class Spool:
    """The waiting announcements of one replica, oldest first; one process at a time. Thread-safe.

    Raises SpoolInUseError when another process holds the directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / REJECTED).mkdir(parents=True, exist_ok=True)
        self._lock_file = (directory / ".lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock_file.close()
            raise SpoolInUseError(
                f"{directory}: another engine writes here; give this one its own --replica"
            ) from error
        self._changed = threading.Condition()
        self._waiting: deque[Announcement] = deque()
        self._sizes: dict[Path, int] = {}
        self.num_rejected_traces = 0  # in announcements that the console refused, since the start
        for path in self._left_by_an_earlier_process():
            self._add(path, path.stat().st_size)

    @property
    def num_bytes(self) -> int:
        """Bytes of the announcements that the console has not acknowledged."""
        return sum(list(self._sizes.values()))

    @property
    def num_rejected(self) -> int:
        """Announcements that the console refused; they stay in ``rejected/`` beside its answer."""
        return sum(1 for path in (self.directory / REJECTED).iterdir() if not path.name.endswith(".response.json"))

    def __len__(self) -> int:
        return len(self._sizes)

    def put(self, name: str, payload: dict[str, Any]) -> None:
        """Announce ``payload`` under ``name`` (unique); durable on return. Raises OSError."""
        path = self.directory / f"{name}.json"
        encoded = json.dumps(payload, separators=(",", ":")).encode()
        write_durably(path, encoded)
        self._add(path, len(encoded))

    def next(self, timeout: float) -> Announcement | None:
        """Take the oldest announcement, waiting for one; None when there is none within ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting, timeout)
            return self._waiting.popleft() if self._waiting else None

    def acknowledge(self, announcement: Announcement) -> None:
        """The console has it: delete it."""
        announcement.path.unlink(missing_ok=True)
        self._sizes.pop(announcement.path, None)

    def retry_first(self, announcement: Announcement) -> None:
        """The console was not reached: it stays the oldest."""
        with self._changed:
            self._waiting.appendleft(announcement)

    def retry_last(self, announcement: Announcement) -> None:
        """The console failed on this one: let the others pass it."""
        with self._changed:
            self._waiting.append(announcement)

    def reject(self, announcement: Announcement, answer: bytes) -> None:
        """The console will never take it: set it aside, with its answer, for a person."""
        num_traces = _num_traces(announcement.path)
        aside = self.directory / REJECTED / announcement.path.name
        write_durably(aside.with_name(f"{aside.stem}.response.json"), answer)
        announcement.path.rename(aside)
        self._sizes.pop(announcement.path, None)
        self.num_rejected_traces += num_traces  # only now: what a full disk refuses comes again

    def close(self) -> None:
        """Let another process have the directory; the waiting files stay."""
        self._lock_file.close()

    def _add(self, path: Path, size: int) -> None:
        with self._changed:
            self._sizes[path] = size
            self._waiting.append(Announcement(path))
            self._changed.notify()

    def _left_by_an_earlier_process(self) -> Iterator[Path]:
        for unfinished in self.directory.glob(f".*{UNFINISHED}"):
            unfinished.unlink()
        yield from sorted(self.directory.glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def _num_traces(path: Path) -> int:
    """Of an announcement; 0 where it is none of traces, or cannot be read."""
    try:
        traces = json.loads(path.read_bytes()).get("traces", [])
    except (OSError, ValueError):
        return 0
    return len(traces) if isinstance(traces, list) else 0
