"""One supervisor per state directory: a lock that the kernel lets go of, and a file that says who holds it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from aurora_web.environment import wrong
from aurora_web.supervisor.process import kill_group, start_time


class Claim:
    """The claim of one supervisor on a state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.lock_file = state_dir / "supervisor.lock"
        self.facts_file = state_dir / "supervisor.json"
        self.children_file = state_dir / "children.json"
        self._lock: IO[bytes] | None = None

    def take(self) -> bool:
        """Take the claim; False when another supervisor holds it. What a killed supervisor left running is ended.

        Raises ImproperlyConfigured where the directory cannot be written.
        """
        folder = self.lock_file.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = self.lock_file.open("ab")
        except OSError as error:
            right = f"expected a directory that can be made and written ({error.strerror})"
            raise wrong("AURORA_STATE_DIR", str(folder), right) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        self._end_leftovers()
        return True

    def write(self, facts: dict[str, Any]) -> None:
        """Say who we are, for ``status``, ``down`` and a second ``up``. Raises OSError."""
        _write_json(self.facts_file, {"pid": os.getpid(), "started": start_time(os.getpid()), **facts})

    def write_children(self, identities: Iterable[tuple[int, str]]) -> None:
        """Remember the processes that run, in case that we are killed. Raises OSError."""
        _write_json(self.children_file, list(identities))

    def release(self) -> None:
        """Give the claim up; nothing of ours runs any more."""
        self.facts_file.unlink(missing_ok=True)
        self.children_file.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def holder(self) -> dict[str, Any] | None:
        """The facts of the supervisor that runs now; None when none does."""
        try:
            facts: dict[str, Any] = json.loads(self.facts_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return facts if start_time(facts["pid"]) == facts["started"] else None

    def _end_leftovers(self) -> None:
        try:
            left = json.loads(self.children_file.read_text())
        except (FileNotFoundError, ValueError):
            return
        for pid, started in left:
            if start_time(pid) == started:  # a pid that was given to somebody else is left alone
                kill_group(pid)


def _write_json(path: Path, content: Any) -> None:
    unfinished = path.with_suffix(".new")
    try:
        unfinished.write_text(json.dumps(content))
        unfinished.replace(path)
    except OSError as error:  # which does not always say of which file
        raise OSError(error.errno, error.strerror, str(path)) from error
