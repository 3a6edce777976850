"""Traces, hidden states and counts of finished requests reach the spool; what does not fit is dropped and counted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from serving.engine.api import FinishedRequest
from serving.trace.counts import CountAggregator, batch_bucket
from serving.trace.recorder import Recorder
from serving.trace.segments import SegmentLimits, SegmentQuota, SegmentWriter
from serving.trace.spool import Spool, write_durably
from speculators.records import CountWindow, SegmentManifest, TraceRecord
from tests.unit.serving.fakes import wait_until

Make = Callable[..., FinishedRequest]


class Disk:
    """A spool and segments in a folder."""

    def __init__(self, root: Path, quota_bytes: int = 1 << 20, **limits: Any) -> None:
        self.spool = Spool(root / "spool" / "r")
        self.quota = SegmentQuota(root / "segments", root / "spool", quota_bytes)
        self.segments = SegmentWriter(
            "demo", "r", (0, 1, 2), 4, self.spool, self.quota, SegmentLimits(**{"max_age_seconds": 0.05, **limits})
        )

    def recorder(self, **given: Any) -> Recorder:
        return Recorder(CountAggregator("demo", "r", 0.05), self.segments, self.spool, **given)

    def announced(self, kind: str) -> list[dict[str, Any]]:
        paths = sorted(self.spool.directory.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(p.read_text()) for p in paths if p.name.startswith("counts-") == (kind == "counts")]

    def traces(self) -> list[str]:
        return [trace["trace_id"] for payload in self.announced("segments") for trace in payload["traces"]]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.spool.close()


def recorded(recorder: Recorder, *requests: FinishedRequest, is_trace: bool = True) -> None:
    for request in requests:
        recorder.put(request, is_trace=is_trace)
    recorder.start()
    recorder.stop()


def test_traces_that_the_console_refuses_count_as_dropped(disk: Disk, finished: Make) -> None:
    recorder = disk.recorder()
    recorded(recorder, finished("a" * 32), finished("b" * 32))
    assert recorder.num_dropped_traces == 0
    while announcement := disk.spool.next(0):
        disk.spool.reject(announcement, b"{}")
    assert recorder.num_dropped_traces == 2


def test_a_trace_and_its_states_are_announced_by_age(disk: Disk, finished: Make) -> None:
    recorder = disk.recorder()
    one, two = finished("a" * 32), finished("b" * 32, num_tokens=7)
    recorder.put(one, is_trace=True)
    recorder.put(two, is_trace=True)
    recorder.start()
    wait_until(lambda: disk.announced("segments"))
    recorder.stop()
    [payload] = disk.announced("segments")
    manifest = SegmentManifest.from_json(payload["segment"])
    traces = [TraceRecord.from_json(trace) for trace in payload["traces"]]
    content = Path(manifest.uri).read_bytes()
    assert (manifest.sha256, manifest.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert (manifest.num_traces, manifest.num_tokens, manifest.hidden_size) == (2, 8 + 10, 4)
    assert [trace.tokens for trace in traces] == [one.tokens, two.tokens]
    assert traces[1].steps == two.steps and traces[1].segment_id == manifest.segment_id
    tensors = load_file(manifest.uri)
    assert set(tensors) == {f"{c * 32}.{name}" for c in "ab" for name in ("states", "final")}
    assert tensors["b" * 32 + ".states"].shape == (9, 12) and str(tensors["b" * 32 + ".final"].dtype) == "torch.float16"
    assert (tensors["b" * 32 + ".final"] == 0.25).all()


def test_what_a_killed_process_left_unfinished_goes(tmp_path: Path) -> None:
    folder = tmp_path / "segments"
    folder.mkdir()
    left, being_written = folder / ".a.safetensors.tmp", folder / ".b.safetensors.tmp"
    for path in (left, being_written):
        path.write_bytes(b"half")
    os.utime(left, (1e9, 1e9))
    Disk(tmp_path).spool.close()
    assert list(folder.iterdir()) == [being_written]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("serving.trace.spool.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_durably(tmp_path / "a.json", b"payload")
    assert list(tmp_path.iterdir()) == []


def test_a_segment_is_sealed_by_size(tmp_path: Path, finished: Make) -> None:
    disk = Disk(tmp_path, max_age_seconds=60, max_segment_bytes=300)
    for number in range(4):  # 7 positions of 32 bytes each
        disk.segments.add(finished(f"{number:032x}"))
    assert [len(payload["traces"]) for payload in disk.announced("segments")] == [2, 2]
    disk.spool.close()


def test_no_train_is_counted_and_not_traced(disk: Disk, finished: Make) -> None:
    recorded(disk.recorder(), finished("a" * 32, keep_states=False), is_trace=False)
    assert disk.traces() == []
    assert disk.announced("counts")[0]["counts"][0]["num_requests"] == 1


@pytest.mark.parametrize(("reason", "is_counted"), [("cancelled", True), ("error", False)])
def test_a_cut_request_is_no_trace(reason: str, is_counted: bool, disk: Disk, finished: Make) -> None:
    recorded(disk.recorder(), dataclasses.replace(finished("a" * 32), finish_reason=reason))  # type: ignore[arg-type]
    assert disk.traces() == []
    assert bool(disk.announced("counts")) == is_counted


def test_counts_are_sums_and_second_moments_per_key(disk: Disk, finished: Make) -> None:
    sql, long_sql = finished("a" * 32, num_tokens=5), finished("b" * 32, num_tokens=9)
    other = dataclasses.replace(finished("c" * 32, domain="json"), mean_batch_size=2.5)
    recorded(disk.recorder(), sql, long_sql, other)
    windows = [CountWindow.from_json(w) for payload in disk.announced("counts") for w in payload["counts"]]
    both, single = sorted(windows, key=lambda w: w.domain, reverse=True)
    assert (both.domain, both.version, both.lookahead, both.batch_bucket) == ("sql", 7, 3, 2)
    assert (both.num_requests, both.num_verify_steps, both.num_accept_tokens) == (2, 2 + 4, 4 + 8)
    assert (both.num_proposed_drafts, both.num_correct_drafts) == (18, 6)
    assert (both.decode_seconds, both.sum_xx, both.sum_yy, both.sum_xy) == (0.5, 16 + 64, 0.125, 3.0)
    assert (single.domain, single.batch_bucket) == ("json", 4)
    assert both.started_at <= both.ended_at


@pytest.mark.parametrize(("mean", "bucket"), [(0, 1), (1, 1), (1.01, 2), (2, 2), (2.1, 4), (8, 8), (8.5, 16)])
def test_batch_bucket(mean: float, bucket: int) -> None:
    assert batch_bucket(mean) == bucket


def test_a_full_queue_drops_traces_but_not_counts(disk: Disk, finished: Make) -> None:
    recorder = disk.recorder(max_waiting_bytes=500)
    recorder_input = [finished(f"{number:032x}") for number in range(5)]  # 224 bytes each
    for request in recorder_input:
        recorder.put(request, is_trace=True)  # not started: nothing drains
    assert recorder.num_dropped_traces == 3
    recorder.start()
    recorder.stop()
    assert len(disk.traces()) == 2
    assert sum(w["num_requests"] for payload in disk.announced("counts") for w in payload["counts"]) == 5


class Halted:
    """A method of another object that is not left before ``may_go_on``."""

    def __init__(self, owner: Any, name: str) -> None:
        self._real = getattr(owner, name)
        self.is_reached, self.may_go_on = threading.Event(), threading.Event()
        setattr(owner, name, self)

    def __call__(self, *given: Any) -> Any:
        found = self._real(*given)
        self.is_reached.set()
        assert self.may_go_on.wait(60)
        return found


def hand_in(recorder: Recorder, finished: Make, letters: str) -> None:
    """A trace of 224 bytes of states for each letter, which is its id."""
    for letter in letters:
        recorder.put(finished(letter * 32), is_trace=True)


def test_states_count_until_their_segment_is_on_disk(disk: Disk, finished: Make) -> None:
    recorder = disk.recorder(max_waiting_bytes=700)
    sealing = Halted(disk.segments, "_manifest")  # of 224 bytes each, two are in a file that nobody knows yet
    hand_in(recorder, finished, "ab")
    assert recorder.queue_bytes == 448
    recorder.start()
    assert sealing.is_reached.wait(60)
    assert recorder.queue_bytes == 448
    hand_in(recorder, finished, "cd")
    assert (recorder.queue_bytes, recorder.num_dropped_traces) == (672, 1)
    sealing.may_go_on.set()
    wait_until(lambda: recorder.queue_bytes == 0)
    hand_in(recorder, finished, "e")
    recorder.stop()
    assert sorted(disk.traces()) == [letter * 32 for letter in "abce"]
    assert recorder.queue_bytes == 0


def test_states_count_while_they_are_put_into_a_segment(tmp_path: Path, finished: Make) -> None:
    disk = Disk(tmp_path, max_age_seconds=60)
    recorder, adding = disk.recorder(max_waiting_bytes=500), Halted(disk.segments, "add")
    hand_in(recorder, finished, "a")
    recorder.start()
    assert adding.is_reached.wait(60)
    assert recorder.queue_bytes == 224
    hand_in(recorder, finished, "bc")
    assert (recorder.queue_bytes, recorder.num_dropped_traces) == (448, 1)
    adding.may_go_on.set()
    wait_until(lambda: disk.segments.num_waiting == 2)
    assert recorder.queue_bytes == 448, "nothing is sealed yet"
    recorder.stop()
    assert (recorder.num_traces, recorder.num_dropped_traces, recorder.queue_bytes) == (2, 1, 0)
    disk.spool.close()


def test_a_trace_larger_than_the_bound_goes_through_when_nothing_else_waits(disk: Disk, finished: Make) -> None:
    recorder = disk.recorder(max_waiting_bytes=100)
    hand_in(recorder, finished, "ab")
    assert (recorder.queue_bytes, recorder.num_dropped_traces) == (224, 1)
    recorder.put(finished("c" * 32, keep_states=False), is_trace=True)  # needs no room
    recorder.start()
    wait_until(lambda: recorder.queue_bytes == 0)
    hand_in(recorder, finished, "d")
    recorder.stop()
    assert sorted(disk.traces()) == ["a" * 32, "c" * 32, "d" * 32]
    assert (recorder.num_traces, recorder.num_dropped_traces) == (3, 1)


def test_what_is_on_disk_is_let_go_while_the_next_is_written(tmp_path: Path, finished: Make) -> None:
    disk = Disk(tmp_path, max_age_seconds=60, max_segment_bytes=1)
    recorder = disk.recorder()
    one, two = finished("a" * 32), finished("b" * 32)
    states = weakref.ref(one.states)
    recorder.put(one, is_trace=True)
    recorder.put(two, is_trace=True)
    del one
    seal, halted = disk.segments.seal, threading.Event()
    may_go_on = threading.Event()

    def second() -> None:
        if "a" * 32 in disk.traces():
            halted.set()
            assert may_go_on.wait(60)
        seal()

    disk.segments.seal = second  # type: ignore[method-assign]
    recorder.start()
    assert halted.wait(60)
    assert (states(), recorder.queue_bytes) == (None, 224)
    may_go_on.set()
    recorder.stop()
    disk.spool.close()


def test_put_returns_at_once_however_slow_the_disk_is(disk: Disk, finished: Make) -> None:
    recorder = disk.recorder(max_waiting_requests=100)
    is_writing, may_go_on, is_written = threading.Event(), threading.Event(), threading.Event()

    def seal() -> None:
        is_writing.set()
        may_go_on.wait(20)
        is_written.set()

    disk.segments.seal = seal  # type: ignore[method-assign]
    recorder.start()
    request = finished("a" * 32)
    recorder.put(request, is_trace=True)
    assert is_writing.wait(30)
    for _ in range(1000):
        recorder.put(request, is_trace=True)
    assert not is_written.is_set(), "all put while the disk hung"
    assert recorder.num_lost_counts > 0
    may_go_on.set()
    recorder.stop()


def test_quota_drops_acknowledged_segments_first(tmp_path: Path, finished: Make) -> None:
    disk = Disk(tmp_path, quota_bytes=1400)  # a segment of one trace is about 430 bytes
    for number in range(3):
        disk.segments.add(finished(f"{number:032x}"))
        disk.segments.seal()
        time.sleep(0.002)
    middle = disk.announced("segments")[1]["segment"]
    taken = [disk.spool.next(0) for _ in range(2)]
    assert taken[1] is not None
    disk.spool.acknowledge(taken[1])  # only the middle one is known to the console
    disk.segments.add(finished("d" * 32))
    disk.segments.seal()
    assert not Path(middle["uri"]).exists()
    assert disk.quota.num_dropped_segments == 1
    assert all(Path(payload["segment"]["uri"]).exists() for payload in disk.announced("segments"))
    disk.spool.close()


def test_without_room_the_tokens_are_still_announced(tmp_path: Path, finished: Make) -> None:
    disk = Disk(tmp_path, quota_bytes=100)
    disk.segments.add(finished("a" * 32))
    disk.segments.seal()
    [payload] = disk.announced("segments")
    assert payload["segment"]["size_bytes"] == 0 and not Path(payload["segment"]["uri"]).exists()
    assert disk.traces() == ["a" * 32]
    assert disk.segments.num_traces_without_states == 1
    disk.spool.close()


def test_a_full_spool_drops_traces_and_keeps_counting(disk: Disk, finished: Make) -> None:
    disk.spool.put("old", {"x": "y" * 100})
    recorder = disk.recorder(max_spool_bytes=50)
    recorded(recorder, finished("a" * 32))
    assert recorder.num_dropped_traces == 1
    assert disk.announced("counts")


def test_a_failing_disk_does_not_end_the_recorder_and_what_it_cost_is_counted(disk: Disk, finished: Make) -> None:
    recorder = disk.recorder()
    put = disk.spool.put

    def full(name: str, payload: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    disk.spool.put = full  # type: ignore[method-assign]
    recorder.start()
    hand_in(recorder, finished, "a")
    wait_until(lambda: recorder.num_write_errors >= 2)  # the trace, and the counts
    assert (recorder.num_traces, recorder.num_dropped_traces, recorder.num_lost_counts) == (0, 1, 1)
    assert list(disk.segments.quota.directory.iterdir()) == []  # no states that nobody was told of
    disk.spool.put = put  # type: ignore[method-assign]
    hand_in(recorder, finished, "b")
    recorder.stop()
    assert "b" * 32 in disk.traces()
    assert (recorder.num_traces, recorder.num_dropped_traces) == (1, 1)


def test_what_is_reported_as_kept_never_falls(tmp_path: Path, finished: Make) -> None:
    """The console takes a counter that fell for a restart, and adds all of it once more."""
    disk = Disk(tmp_path, max_age_seconds=60)
    recorder, sealing = disk.recorder(), Halted(disk.segments, "_manifest")
    recorder.start()
    hand_in(recorder, finished, "abc")
    wait_until(lambda: disk.segments.num_waiting == 3)
    reported = [recorder.num_traces]

    def full(name: str, payload: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    disk.spool.put = full  # type: ignore[method-assign]
    stopping = threading.Thread(target=recorder.stop)
    stopping.start()
    assert sealing.is_reached.wait(60)
    reported.append(recorder.num_traces)
    sealing.may_go_on.set()
    stopping.join(60)
    reported.append(recorder.num_traces)
    assert (reported, recorder.num_dropped_traces) == ([0, 0, 0], 3)
    disk.spool.close()


def test_a_segment_that_an_error_of_ours_loses_is_counted(disk: Disk, finished: Make) -> None:
    recorder = disk.recorder()
    disk.segments._manifest = lambda *_: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    recorded(recorder, finished("a" * 32), finished("b" * 32))
    assert (recorder.num_traces, recorder.num_dropped_traces) == (0, 2)


def test_states_that_do_not_fit_the_disk_leave_the_tokens(
    disk: Disk, finished: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, payload: bytes) -> None:
        raise OSError(28, "No space left on device")

    recorder = disk.recorder()
    monkeypatch.setattr("serving.trace.segments.write_durably", full)
    recorded(recorder, finished("a" * 32))
    assert "a" * 32 in disk.traces()
    assert (recorder.num_traces, disk.segments.num_traces_without_states) == (1, 1)


def test_an_error_of_ours_costs_one_trace(disk: Disk, finished: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, add = disk.recorder(), disk.segments.add

    def faulty(each: FinishedRequest) -> None:
        if each.request_id.startswith("a"):
            raise KeyError("a bug")
        add(each)

    monkeypatch.setattr(disk.segments, "add", faulty)
    recorded(recorder, finished("a" * 32), finished("b" * 32))
    assert set(disk.traces()) == {"b" * 32}
    assert recorder.num_write_errors == 1


def test_without_a_console_only_totals_are_kept(finished: Make) -> None:
    recorder = Recorder(CountAggregator("demo", "r"), None, None)
    recorded(recorder, finished("a" * 32))
    assert not recorder.keeps_traces
    assert [total.num_requests for total in recorder.totals.values()] == [1]
