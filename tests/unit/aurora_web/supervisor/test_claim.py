"""One supervisor per state directory, also after one was killed."""

import os
import subprocess
import sys
from pathlib import Path

from aurora_web.supervisor.claim import Claim
from aurora_web.supervisor.process import start_time


def test_a_second_claim_is_refused_and_told_who_holds_the_first(tmp_path: Path) -> None:
    first, second = Claim(tmp_path), Claim(tmp_path)
    assert first.take()
    first.write({"console": "http://127.0.0.1:8000"})
    assert not second.take()
    holder = second.holder()
    assert holder is not None and holder["pid"] == os.getpid() and holder["console"] == "http://127.0.0.1:8000"
    first.release()
    assert second.holder() is None
    assert second.take()
    second.release()


def test_the_facts_of_a_dead_supervisor_are_not_believed(tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    (tmp_path / "supervisor.json").write_text(f'{{"pid": {dead.pid}, "started": "1", "console": "x"}}')
    assert claim.holder() is None


def test_what_a_killed_supervisor_left_running_is_ended_and_nothing_else(tmp_path: Path) -> None:
    left, stranger = (
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        for _ in range(2)
    )
    claim = Claim(tmp_path)
    claim.write_children([(left.pid, start_time(left.pid)), (stranger.pid, "1")])  # the pid was given to a stranger
    assert claim.take()
    assert left.wait(60) == -9
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
    claim.release()
