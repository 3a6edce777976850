"""A disk that can be filled while a server writes to it, with the rights of root and without."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path


class SmallDisk:
    """A file system of 1 MiB; mounting one takes root's rights. Raises PermissionError without them."""

    complaint = "No space left"  # what the system says of a write

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PermissionError(done.stderr.strip() or f"mount ended with {done.returncode}")

    def fill(self) -> None:
        try:
            with (self.folder / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 65536)
        except OSError as error:
            assert self.complaint in str(error)

    def empty(self) -> None:
        (self.folder / "filler").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


class NoFiles:
    """Any disk: while it is full, the processes that keep a file open in the folder can write none, as RLIMIT_FSIZE.

    To them that is a write that fails, as on a full disk, by another word. The limit is for all files, logs included.
    """

    complaint = "File too large"

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._limits: dict[int, tuple[int, int]] = {}

    def fill(self) -> None:
        writers = [pid for pid in _processes() if _has_open(pid, self.folder)]
        assert writers, f"no process of ours keeps a file open below {self.folder}"
        for pid in writers:
            self._limits[pid] = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, self._limits[pid][1]))

    def empty(self) -> None:
        while self._limits:
            pid, limits = self._limits.popitem()
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)

    def close(self) -> None:
        pass


def _processes() -> list[int]:
    """All but this one."""
    return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and int(each.name) != os.getpid()]


def _has_open(pid: int, folder: Path) -> bool:
    """False also of a process that is somebody else's, or has ended."""
    with contextlib.suppress(OSError):
        for file in list(Path(f"/proc/{pid}/fd").iterdir()):
            with contextlib.suppress(OSError):  # closed meanwhile
                if Path(os.readlink(file)).is_relative_to(folder):
                    return True
    return False


@contextlib.contextmanager
def at(folder: Path) -> Iterator[SmallDisk | NoFiles]:
    """A disk at ``folder``, small where one can be mounted."""
    found: SmallDisk | NoFiles
    try:
        found = SmallDisk(folder)
    except (PermissionError, FileNotFoundError):  # mount itself may be missing
        found = NoFiles(folder)
    try:
        yield found
    finally:
        found.close()
