"""A recorder, and a start, in a process of its own whose disk is full, as in the test with a real SGLang server."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from serving.engine.api import Request
from serving.trace.desired_file import DesiredFile
from serving.trace.parts import Recording, running
from speculators.records import DesiredState, StepRecord
from tests.sglang import full_disk
from tests.unit.serving.fakes import FakeEngine, make_finished, wait_until
from tests.unit.serving.tiny import SHAPE, make_draft
from tests.unit.serving.trace.test_recorder import Disk

TARGET = {**SHAPE, "rope_theta": 10_000.0}


def record(root: Path, connection: Connection) -> None:
    """For every request id that comes, what has become of all traces so far: (kept, dropped), and who is announced."""
    disk = Disk(root)
    recorder = disk.recorder()
    recorder.start()
    connection.send("ready")
    for number, request_id in enumerate(iter(connection.recv, ""), 1):
        request = Request(request_id, (1, 2, 3), domain="sql")
        recorder.put(make_finished(request, [1, 2, 3], (StepRecord((9,), 1),)), is_trace=True)
        wait_until(lambda number=number: recorder.queue_bytes == 0 and _settled(recorder) == number)
        connection.send((recorder.num_traces, recorder.num_dropped_traces, disk.traces()))
    recorder.stop()


def _settled(recorder) -> int:
    return recorder.num_traces + recorder.num_dropped_traces


@pytest.fixture(params=[full_disk.SmallDisk, full_disk.NoFiles])
def disk(request, tmp_path: Path) -> Iterator[full_disk.SmallDisk | full_disk.NoFiles]:
    try:
        found = request.param(tmp_path)
    except (PermissionError, FileNotFoundError) as error:
        pytest.skip(f"no small file system can be mounted: {error}")
    yield found
    found.close()


def test_what_a_full_disk_refuses_is_counted_and_traces_come_again(disk: full_disk.SmallDisk) -> None:
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=record, args=(disk.folder, theirs), daemon=True)
    child.start()
    assert ours.recv() == "ready"

    def told(request_id: str) -> tuple[int, int, list[str]]:
        ours.send(request_id)
        assert ours.poll(60)
        return ours.recv()

    one, two, three = (letter * 32 for letter in "abc")
    assert told(one) == (1, 0, [one])
    disk.fill()
    assert told(two) == (1, 1, [one])
    disk.empty()
    assert told(three) == (2, 1, [one, three])
    ours.send("")
    child.join(60)
    assert child.exitcode == 0


def restart(root: Path, uri: str, sha256: str, connection: Connection) -> None:
    """A replica's start, once it is told to go on; its last start served version 1. Tells which version it serves."""
    engine = FakeEngine()
    recording = Recording("demo", "r1", "test", "http://127.0.0.1:1", "http://127.0.0.1:1", "t", root)
    DesiredFile(recording.desired_file).write(DesiredState("demo", 1, 1, uri, sha256, 4, 0.0, 0.0))
    with running(recording, engine.aux_layer_ids, engine, TARGET) as parts:
        connection.send("ready")
        connection.recv()
        assert parts.follower
        parts.follower.restore()
        connection.send(engine.version)


def test_a_full_disk_keeps_no_replica_from_serving_what_it_served(
    disk: full_disk.SmallDisk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    version = tmp_path_factory.mktemp("versions") / "v1"
    sha256 = make_draft(version, TARGET, seed=1)
    ours, theirs = multiprocessing.Pipe()
    given = (disk.folder, str(version), sha256, theirs)
    child = multiprocessing.get_context("spawn").Process(target=restart, args=given, daemon=True)
    child.start()
    theirs.close()
    assert ours.recv() == "ready"
    disk.fill()
    ours.send("go on")
    assert ours.recv() == 1
    disk.empty()
    child.join(60)
    assert child.exitcode == 0
