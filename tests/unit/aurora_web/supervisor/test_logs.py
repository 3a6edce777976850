"""Logs stay short while processes write to them, and only their ends are read."""

import os
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from aurora_web.supervisor import logs
from aurora_web.supervisor.child import Child, Program
from aurora_web.supervisor.logs import Logs, set_aside, tail

LIMIT = 64 * 1024
COUNT = r"""
import itertools, os
for number in itertools.count():
    os.write(1, b"%09d\n" % number)
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(logs, "LIMIT_BYTES", LIMIT)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "engine-qwen2.5.log"


@pytest.fixture
def kept(log):
    """(the logs of its folder, a way to let the next look come, what they say)"""
    now, said = [0.0], []

    def pass_time():
        now[0] += logs.LOOK_SECONDS

    return Logs(log.parent, said.append, clock=lambda: now[0]), pass_time, said


def test_a_log_is_set_aside_under_the_process_that_appends_to_it(log):
    with log.open("ab", buffering=0) as inherited:
        for word in (b"first", b"second"):
            inherited.write(b"\n".join([word] * 100) + b"\n")
            set_aside(log)
            assert log.read_bytes() == b""
            assert log.with_suffix(".log.1").read_bytes() == b"\n".join([word] * 100) + b"\n"
        inherited.write(b"third\n")
    assert log.read_bytes() == b"third\n" and len(list(log.parent.iterdir())) == 2


def test_of_a_log_far_over_the_limit_the_end_is_kept(log):
    log.write_bytes(b"x" * 5 * LIMIT + b"the end")
    set_aside(log)
    found = log.with_suffix(".log.1").read_bytes()
    assert len(found) == LIMIT and found.endswith(b"the end")


def test_a_process_that_writes_for_ever_is_followed(log, kept):
    """A real child: it is not started again, and its lines go on."""
    folder, pass_time, said = kept
    aside = log.with_suffix(".log.1")
    child = Child(Program("counting", (sys.executable, "-c", COUNT), dict(os.environ), log.parent, log), said.append)
    assert child.watch()
    try:
        seen = set()
        deadline = time.monotonic() + 60
        while len(seen) < 4:
            assert time.monotonic() < deadline and child.process.poll() is None
            pass_time()
            folder.look()
            if aside.exists():
                seen.add(aside.read_bytes()[:9])
        while not log.stat().st_size:
            assert time.monotonic() < deadline
    finally:
        child.stop()
    numbers = [int(line) for line in (aside.read_text() + log.read_text()).split()[1:]]  # the first line is half of one
    assert numbers == sorted(set(numbers)) and not said


def test_it_is_looked_at_now_and_then(log, kept):
    folder, pass_time, _ = kept
    pass_time()
    folder.look()
    log.write_bytes(b"x" * (LIMIT + 1))
    folder.look()
    assert log.stat().st_size == LIMIT + 1
    pass_time()
    folder.look()
    assert log.stat().st_size == 0
    log.write_bytes(b"x" * LIMIT)
    pass_time()
    folder.look()
    assert log.stat().st_size == LIMIT


@pytest.mark.parametrize("obstacle", [".log.new", ".log.1"])
def test_what_cannot_be_set_aside_stays_whole_is_said_once_and_tried_again(log, kept, obstacle):
    """A directory in the place of a file refuses to be written, as a full disk does."""
    folder, pass_time, said = kept
    log.write_bytes(b"x" * (LIMIT + 1))
    (log.with_suffix(obstacle) / "inside").mkdir(parents=True)
    before = sorted(log.parent.iterdir())
    for _ in range(2):
        pass_time()
        folder.look()
    assert len(said) == 1 and str(log) in said[0] and "cannot be set aside" in said[0]
    assert log.stat().st_size == LIMIT + 1 and sorted(log.parent.iterdir()) == before
    (log.with_suffix(obstacle) / "inside").rmdir()
    log.with_suffix(obstacle).rmdir()
    pass_time()
    folder.look()
    assert log.stat().st_size == 0 and len(said) == 1


def test_only_the_end_of_a_log_is_read(log):
    with log.open("wb") as file:
        file.truncate(64 << 20)  # without taking room
        file.seek(0, os.SEEK_END)
        file.write("\n".join(f"größe {number}" for number in range(100)).encode())
    tracemalloc.start()
    try:
        found = tail(log, 3)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert found == "    größe 97\n    größe 98\n    größe 99"
    assert tail(Path("/nowhere")) == ""
