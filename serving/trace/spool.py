"""Announcements that wait on disk until the console has acknowledged them; they survive a killed process.

An announcement is one JSON file, complete from the moment that it has its final name. Whoever deletes it says that
the console has it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

COUNTS_PREFIX = "counts-"
REJECTED = "rejected"
RESPONSE = ".response.json"
# Of what the console refused: it is there to find out why, and holds people's text
MOST_REJECTED_BYTES = 64 << 20
MOST_REJECTED_SECONDS = 7 * 86_400.0
PRUNE_SECONDS = 60.0


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


@dataclass(frozen=True, slots=True)
class _SetAside:
    num_bytes: int  # the console's answer included
    since: float  # Unix seconds


class Rejected:
    """Announcements that the console refused, each beside its answer. Written by one thread.

    The oldest go while all have more than ``most_bytes``, and each goes after ``most_seconds``, with the hidden states
    that it told of, which nobody else knows.
    """

    def __init__(self, directory: Path, most_bytes: int, most_seconds: float) -> None:
        self.directory = directory
        self.most_bytes = most_bytes
        self.most_seconds = most_seconds
        directory.mkdir(parents=True, exist_ok=True)
        self._kept: dict[str, _SetAside] = dict(self._left_by_an_earlier_process())  # by name, oldest first
        self._num_bytes = sum(kept.num_bytes for kept in self._kept.values())
        self._next_prune = 0.0  # monotonic
        self.prune()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, path: Path, answer: bytes) -> None:
        """Move an announcement here. Raises OSError; then it is where it was."""
        kept = _SetAside(path.stat().st_size + len(answer), time.time())
        write_durably(self.directory / f"{path.stem}{RESPONSE}", answer)
        path.rename(self.directory / path.name)
        before = self._kept.pop(path.stem, None)  # an answer, of a process that was killed right then
        self._num_bytes += kept.num_bytes - (before.num_bytes if before else 0)
        self._kept[path.stem] = kept
        self.prune()

    def prune_if_due(self) -> None:
        if time.monotonic() >= self._next_prune:
            self.prune()

    def prune(self) -> None:
        """Delete what is too old or too much."""
        self._next_prune = time.monotonic() + PRUNE_SECONDS
        oldest = time.time() - self.most_seconds
        while self._kept:
            name, kept = next(iter(self._kept.items()))
            if kept.since >= oldest and self._num_bytes <= self.most_bytes:
                return
            del self._kept[name]
            self._num_bytes -= kept.num_bytes
            self._delete(name)

    def _delete(self, name: str) -> None:
        path = self.directory / f"{name}.json"
        try:
            delete_with_states(path)
            path.with_name(f"{name}{RESPONSE}").unlink(missing_ok=True)
        except OSError:
            log.exception("%s, which the console refused, cannot be deleted; the next start tries again", path)

    def _left_by_an_earlier_process(self) -> list[tuple[str, _SetAside]]:
        found: dict[str, _SetAside] = {}
        for path in self.directory.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                name, stat = path.name.removesuffix(RESPONSE).removesuffix(".json"), path.stat()
                before = found.get(name, _SetAside(0, 0.0))
                # the answer is the newer of the two files
                found[name] = _SetAside(before.num_bytes + stat.st_size, max(before.since, stat.st_mtime))
        return sorted(found.items(), key=lambda item: item[1].since)


class Spool:
    """The waiting announcements of one replica, oldest first; one process at a time. Thread-safe.

    Raises SpoolInUseError when another process holds the directory.
    """

    def __init__(
        self,
        directory: Path,
        most_rejected_bytes: int = MOST_REJECTED_BYTES,
        most_rejected_seconds: float = MOST_REJECTED_SECONDS,
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
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
        self.rejected = Rejected(directory / REJECTED, most_rejected_bytes, most_rejected_seconds)
        # Since the start
        self.num_dropped = 0  # announcements of a target that the console does not have
        self.num_rejected_traces = 0  # in these, and in announcements that the console refused for something else
        for path in self._left_by_an_earlier_process():
            self._add(path, path.stat().st_size)

    @property
    def num_bytes(self) -> int:
        """Bytes of the announcements that the console has not acknowledged."""
        return sum(list(self._sizes.values()))

    @property
    def num_rejected(self) -> int:
        """Announcements that the console refused and that are still in ``rejected/``."""
        return len(self.rejected)

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
        """The console will never take it: set it aside, with its answer, for a person. Raises OSError."""
        num_traces = _num_traces(_content(announcement.path))
        self.rejected.add(announcement.path, answer)
        self._sizes.pop(announcement.path, None)
        self.num_rejected_traces += num_traces  # only now: what a full disk refuses comes again

    def drop(self, announcement: Announcement) -> None:
        """The console has no such target, and what was before the target nobody asks for: nothing of it is kept."""
        num_traces = _num_traces(_content(announcement.path))
        delete_with_states(announcement.path)
        self._sizes.pop(announcement.path, None)
        self.num_dropped += 1
        self.num_rejected_traces += num_traces

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


def delete_with_states(path: Path) -> None:
    """Delete an announcement and the hidden states that it tells of, if any. Raises OSError."""
    segment = _content(path).get("segment")
    uri = segment.get("uri") if isinstance(segment, dict) else None
    if isinstance(uri, str) and uri:
        Path(uri).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _content(path: Path) -> dict[str, Any]:
    """Of an announcement; empty where it cannot be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _num_traces(content: dict[str, Any]) -> int:
    """0 where it tells of none."""
    traces = content.get("traces", [])
    return len(traces) if isinstance(traces, list) else 0
