"""What was announced is there after any kind of death, in order, until the console has it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.trace.spool import Announcement, Spool, SpoolInUseError

WRITER = """
import sys, threading
from pathlib import Path
import torch
from serving.engine.api import Request
from serving.trace.counts import CountAggregator
from serving.trace.recorder import Recorder
from serving.trace.segments import SegmentLimits, SegmentQuota, SegmentWriter
from serving.trace.spool import Spool
from speculators.records import StepRecord
from tests.unit.serving.fakes import make_finished

root = Path(sys.argv[1])
spool = Spool(root / "spool" / "r")
put = spool.put
def loudly(name, payload):
    put(name, payload)
    print(name, flush=True)
spool.put = loudly
quota = SegmentQuota(root / "segments", root / "spool", 1 << 30)
segments = SegmentWriter("demo", "r", (0, 1, 2), 4, spool, quota, SegmentLimits(0.01))
recorder = Recorder(CountAggregator("demo", "r", 0.05), segments, spool)
recorder.start()
number = 0
while True:
    number += 1
    request = Request(f"{number:032x}", (1, 2, 3))
    recorder.put(make_finished(request, [4, 5, 6], (StepRecord((5, 1), 1),)), is_trace=True)
    threading.Event().wait(0.001)
"""


def test_a_killed_writer_loses_nothing_that_it_announced(tmp_path: Path) -> None:
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        announced = [writer.stdout.readline().strip() for _ in range(25)]
        os.kill(writer.pid, signal.SIGKILL)
        announced += writer.stdout.read().split()
        writer.wait()
        spool = Spool(tmp_path / "spool" / "r")
        waiting = {path.stem: json.loads(path.read_text()) for path in spool.directory.glob("*.json")}
        assert set(announced) <= set(waiting)
        for payload in waiting.values():
            if "segment" in payload:
                assert Path(payload["segment"]["uri"]).stat().st_size == payload["segment"]["size_bytes"] > 0
        assert not list(spool.directory.glob(".*.tmp"))
        assert len(spool) == len(waiting)
        spool.close()


def test_a_second_process_is_told_that_the_spool_is_taken(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(SpoolInUseError, match="--replica"):
        Spool(tmp_path)
    spool.close()
    Spool(tmp_path).close()


def test_oldest_first_also_after_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for name in ("c", "a", "b"):
        spool.put(name, {})
        time.sleep(0.002)
    spool.close()
    again = Spool(tmp_path)
    again.put("0", {})
    assert [taken.path.stem for _ in range(4) if (taken := again.next(0))] == ["c", "a", "b", "0"]
    assert again.next(0) is None


def test_bytes_are_those_that_wait(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put("a", {"x": 1})
    spool.put("b", {})
    first, second = spool.next(0), spool.next(0)
    assert first and second and spool.num_bytes == 9
    spool.acknowledge(first)
    spool.reject(second, b'{"title": "no"}')
    assert (spool.num_bytes, len(spool), spool.num_rejected) == (0, 0, 1)
    assert (tmp_path / "rejected" / "b.response.json").read_text() == '{"title": "no"}'


def test_traces_of_refused_announcements_are_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for name, payload in (("a", {"traces": [1, 2, 3]}), ("b", {"counts": [1]}), ("c", {"traces": [4]})):
        spool.put(name, payload)
    for taken in [spool.next(0) for _ in range(3)]:
        assert taken
        spool.reject(taken, b"{}")
    assert (spool.num_rejected, spool.num_rejected_traces) == (3, 4)


def test_a_refused_announcement_that_cannot_be_set_aside_yet_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.put("a", {"traces": [1, 2, 3]})
    taken = spool.next(0)
    assert taken

    def full(path: Path, payload: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("serving.trace.spool.write_durably", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                spool.reject(taken, b"{}")
    assert (spool.num_rejected_traces, len(spool)) == (0, 1)
    spool.reject(taken, b"{}")
    assert (spool.num_rejected_traces, len(spool)) == (3, 0)


def refused(spool: Spool, name: str, states: Path, text: str = "") -> None:
    states.write_bytes(b"hidden states")
    spool.put(name, {"segment": {"uri": str(states)}, "traces": [text]})
    taken = spool.next(0)
    assert taken
    spool.reject(taken, b'{"title": "no"}')


def test_of_what_was_refused_the_oldest_goes_first_with_its_states(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", most_rejected_bytes=1000)
    for name in "abcd":
        refused(spool, name, tmp_path / f"{name}.safetensors", "x" * 300)
    assert spool.num_rejected == 2
    kept = {path.name for path in (tmp_path / "spool" / "rejected").iterdir()}
    assert kept == {"c.json", "c.response.json", "d.json", "d.response.json"}
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"c.safetensors", "d.safetensors"}
    assert spool.num_rejected_traces == 4


def test_what_was_refused_goes_after_a_week(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    for name in "ab":
        refused(spool, name, tmp_path / f"{name}.safetensors")
    spool.close()
    for path, days in (("a.json", 9), ("a.response.json", 8), ("b.json", 9), ("b.response.json", 6)):
        at = time.time() - days * 86_400
        os.utime(tmp_path / "spool" / "rejected" / path, (at, at))
    assert Spool(tmp_path / "spool").num_rejected == 1, "b was set aside six days ago, however old it is"
    assert {path.name for path in (tmp_path / "spool" / "rejected").iterdir()} == {"b.json", "b.response.json"}
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["b.safetensors"]


def test_a_start_finds_what_was_refused_before(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    for seconds, name in enumerate("cab"):
        refused(spool, name, tmp_path / f"{name}.safetensors", "x" * 300)
        os.utime(tmp_path / "spool" / "rejected" / f"{name}.response.json", (time.time() - 99 + seconds,) * 2)
    (tmp_path / "spool" / "rejected" / "c.json").rename(tmp_path / "spool" / "c.json")  # killed in between
    spool.close()
    again = Spool(tmp_path / "spool", most_rejected_bytes=1000)
    assert (len(again), again.num_rejected) == (1, 3)
    taken = again.next(0)
    assert taken
    again.reject(taken, b"{}")
    assert again.num_rejected == 2
    assert not (tmp_path / "spool" / "rejected" / "a.json").exists(), "the oldest, now that c was refused again"


def test_kind_is_the_console_call() -> None:
    assert Announcement(Path("counts-ab.json")).kind == "counts"
    assert Announcement(Path("ab.json")).kind == "segments"
