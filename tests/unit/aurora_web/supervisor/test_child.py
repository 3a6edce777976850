"""Restarts and waits between them; and that no grandchild survives."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from aurora_web.supervisor.child import MOST_TOLD, MOST_WAIT_SECONDS, STEADY_SECONDS, Child, Program


def program(tmp_path: Path, code: str) -> Program:
    return Program("tested", (sys.executable, "-c", code), dict(os.environ), tmp_path, tmp_path / "tested.log")


def end(child: Child) -> None:
    assert child.process is not None
    child.process.wait(20)


def test_a_process_that_ends_is_started_again_after_a_growing_wait(tmp_path: Path) -> None:
    now, said = [100.0], list[str]()
    child = Child(program(tmp_path, "raise SystemExit(3)"), said.append, clock=lambda: now[0])
    assert child.watch()
    end(child)
    assert not child.watch()  # it noticed the end and waits
    assert "ended with 3" in said[0] and str(tmp_path / "tested.log") in said[0]
    now[0] += 0.6
    assert child.watch()
    end(child)
    assert not child.watch()
    now[0] += 0.6
    assert not child.watch()  # the second wait is longer
    now[0] += 0.6
    assert child.watch()
    child.stop()


def test_one_that_never_stays_up_is_tried_for_ever_and_told_of_until_it_is_clear(tmp_path: Path) -> None:
    now, said = [0.0], list[str]()
    child = Child(program(tmp_path, "pass"), said.append, clock=lambda: now[0])
    child.num_failures = MOST_TOLD - 2
    for _ in range(4):
        assert child.watch() and not child.is_down
        end(child)
        assert not child.watch() and child.is_down
        now[0] += MOST_WAIT_SECONDS
    assert len(said) == 2 and f"{MOST_TOLD} times in a row; it is tried every 30 s from now on" in said[1]
    assert child.num_failures == MOST_TOLD + 2

    child.watch()
    end(child)
    now[0] += STEADY_SECONDS
    child.watch()
    assert child.num_failures == 1 and "starting again in 0.5 s" in said[2]


def test_what_cannot_be_started_now_is_tried_again(tmp_path: Path) -> None:
    """A file in the place of the folder of its log refuses it, as a full disk does."""
    now, said, folder = [100.0], list[str](), tmp_path / "logs"
    folder.touch()
    child = Child(replace(program(tmp_path, "pass"), log=folder / "log"), said.append, clock=lambda: now[0])
    assert not child.watch()
    assert "tested could not be started" in said[0] and "starting again in 0.5 s" in said[0]
    assert not child.watch() and len(said) == 1
    folder.unlink()
    now[0] += 0.6
    assert child.watch()
    child.stop()


def test_stopping_ends_grandchildren_too(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(15, signal.SIG_IGN); "
        "time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    child = Child(program(tmp_path, code), print)
    child.watch()
    log = tmp_path / "tested.log"
    deadline = time.monotonic() + 60
    while not log.read_text().strip() and time.monotonic() < deadline:
        time.sleep(0.05)
    grandchild = int(log.read_text())
    child.stop()
    assert wait_gone(grandchild)


def wait_gone(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_niceness_counts_because_children_share_our_session(tmp_path: Path) -> None:
    child = Child(replace(program(tmp_path, "import time; time.sleep(600)"), niceness=3), list[str]().append)
    child.watch()
    assert child.process is not None
    pid = child.process.pid
    assert os.getsid(pid) == os.getsid(0)
    assert os.getpgid(pid) == pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0) + 3
    child.stop()
