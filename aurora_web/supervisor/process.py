"""Child processes that never outlive the supervisor: own process group, parent-death signal, one log file each."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from aurora_web.supervisor.logs import make_room, tail

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ProcessError(RuntimeError):
    """A child that did not start or ended at once; the message names it and its log."""


def unprivileged_user() -> pwd.struct_passwd | None:
    """``nobody`` where we are root (Postgres refuses to run as root), else None: run as we are."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def start(
    command: Sequence[str],
    *,
    log: Path,
    output: Path | None = None,
    environment: dict[str, str],
    cwd: Path,
    user: pwd.struct_passwd | None = None,
    niceness: int = 0,
    death_signal: int = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start a child in its own process group; it gets ``death_signal`` when this process dies, however it dies.

    Standard output goes to the log too, unless ``output`` names a file for it.

    Must be called from the main thread: the parent-death signal is tied to the thread that forked.
    """
    make_room(log)
    with log.open("ab") as errors, output.open("wb") if output else log.open("ab") as standard:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=standard,
            stderr=errors,
            env=environment,
            cwd=cwd,
            process_group=0,  # no session of its own: Linux shares a machine among sessions first, then by niceness
            preexec_fn=partial(_become, user, niceness, death_signal),
        )


def _become(user: pwd.struct_passwd | None, niceness: int, death_signal: int) -> None:
    """In the child, before it runs its program."""
    if user is not None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    _libc.prctl(PR_SET_PDEATHSIG, death_signal)  # after setuid, which clears it
    if niceness:
        os.nice(niceness)


def wait_until(
    is_ready: Callable[[], bool], name: str, process: subprocess.Popen[bytes], log: Path, seconds: float
) -> None:
    """Poll until ready. Raises ProcessError with the last lines of the log when the child ends or time runs out."""
    deadline = time.monotonic() + seconds
    while not is_ready():
        if process.poll() is not None:
            raise ProcessError(f"{name} ended with {process.returncode}; {log} ends with:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise ProcessError(f"{name} was not ready after {seconds:.0f} s; {log} ends with:\n{tail(log)}")
        time.sleep(0.05)


def stop(process: subprocess.Popen[bytes], ask: int = signal.SIGTERM, seconds: float = 15.0) -> None:
    """Ask the child to end, wait, then kill what is left of its process group."""
    if process.poll() is None:
        process.send_signal(ask)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the kill below ends it then
            process.wait(seconds)
    kill_group(process.pid)
    process.wait(5)


def kill_group(leader: int) -> None:
    """SIGKILL a process group; nothing happens where it is gone."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def start_time(pid: int) -> str:
    """Kernel start time of a process, which with the pid names it for ever; "" where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return fields[19]
