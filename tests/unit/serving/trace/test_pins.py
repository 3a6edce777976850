"""Pins on their way from the console to engine and recorder, and what the replica says about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serving.engine.api import Request
from serving.engine.pins import Pins
from serving.trace.parts import Parts, Recording, running
from speculators.records import DesiredState, DomainPin, DomainPins, NameRule, StepRecord
from tests.unit.serving.fakes import FakeConsole, FakeEngine, make_finished, wait_until

PINS = DomainPins(3, (DomainPin("sql", 2, no_training=True),), (NameRule("prefix", "pg", "sql"),))


def desired(pins: DomainPins | None) -> dict[str, Any]:
    return DesiredState("demo", 0, 0, "", "", 6, 0.0, 0.0, pins).to_json()


@contextmanager
def replica(console: FakeConsole, state_dir: Path, engine: FakeEngine) -> Iterator[Parts]:
    recording = Recording("demo", "r1", "test", "http://127.0.0.1:1", console.url, "t", state_dir)
    with running(recording, engine.aux_layer_ids, engine, {"hidden_size": 4}) as parts:
        assert parts.follower
        parts.follower.interval_seconds = 0.02
        parts.follower.restore()
        parts.follower.start()
        yield parts
        parts.follower.stop()


def last_report(console: FakeConsole) -> dict[str, Any]:
    reports = console.of("/api/v1/ingest/observed")
    return reports[-1] if reports else {}


def counted(console: FakeConsole) -> set[str]:
    return {row["domain"] for body in console.of("/api/v1/ingest/counts") for row in body["counts"]}


def test_a_poll_brings_them_and_the_next_report_says_so(console: FakeConsole, tmp_path: Path) -> None:
    console.desired, engine = desired(DomainPins()), FakeEngine()
    with replica(console, tmp_path, engine) as parts:
        wait_until(lambda: last_report(console).get("pins_revision") == 0)
        assert parts.recorder.keeps("sql")
        console.desired = desired(PINS)
        wait_until(lambda: last_report(console).get("pins_revision") == 3)
        assert last_report(console)["pins_obeyed"] == ["lookahead", "speculation_off", "no_training"]
        assert engine.pins.of("pg14").lookahead == 2
        assert [parts.recorder.keeps(name) for name in ("sql", "pg14", "prose")] == [False, False, True]


def test_an_answer_without_pins_changes_nothing(console: FakeConsole, tmp_path: Path) -> None:
    """A console that knows of none, or an address that does not give them."""
    console.desired, engine = desired(PINS), FakeEngine()
    with replica(console, tmp_path, engine):
        wait_until(lambda: last_report(console).get("pins_revision") == 3)
        assert "pins" not in desired(None)
        console.desired, num_reports = desired(None), len(console.calls)
        wait_until(lambda: len(console.calls) > num_reports + 2)
        assert engine.pins.desired == PINS


def test_a_restart_without_the_console_holds_them(console: FakeConsole, tmp_path: Path) -> None:
    console.desired = desired(PINS)
    with replica(console, tmp_path, FakeEngine()):
        wait_until(lambda: last_report(console).get("pins_revision") == 3)
    console.status, engine = 503, FakeEngine()
    with replica(console, tmp_path, engine) as parts:
        assert engine.pins.desired == PINS
        assert not parts.recorder.keeps("sql")


def test_a_full_disk_keeps_no_report_back_and_they_are_written_later(console: FakeConsole, tmp_path: Path) -> None:
    """A directory in the place of the file that becomes it refuses it, as a full disk does."""
    console.desired, folder = desired(PINS), tmp_path / "replicas"
    (folder / ".r1.pins.json.tmp").mkdir(parents=True)
    with replica(console, tmp_path, FakeEngine()):
        wait_until(lambda: last_report(console).get("pins_revision") == 3)
        assert not (folder / "r1.pins.json").exists()
        (folder / ".r1.pins.json.tmp").rmdir()
        wait_until((folder / "r1.pins.json").exists)
    console.status, engine = 503, FakeEngine()
    with replica(console, tmp_path, engine):
        assert engine.pins.desired == PINS


@pytest.mark.parametrize(
    "kept", ["", "{", '{"revision": "x"}', '{"revision": 1, "pins": [{"domain": "a", "lookahead": 99}]}']
)
def test_a_file_that_cannot_be_used_pins_nothing(console: FakeConsole, tmp_path: Path, kept: str) -> None:
    (tmp_path / "replicas").mkdir()
    (tmp_path / "replicas" / "r1.pins.json").write_text(kept)
    console.status, engine = 503, FakeEngine()
    with replica(console, tmp_path, engine):
        assert engine.pins.desired == DomainPins()


def test_what_cannot_be_obeyed_is_reported_and_the_old_ones_go_on(console: FakeConsole, tmp_path: Path) -> None:
    console.desired, engine = desired(PINS), FakeEngine()
    with replica(console, tmp_path, engine):
        wait_until(lambda: last_report(console).get("pins_revision") == 3)
        console.desired = desired(DomainPins(4, (DomainPin("sql", 40),)))
        wait_until(lambda: "revision 4 was refused" in last_report(console)["pins_detail"])
        assert last_report(console)["pins_revision"] == 3
        console.desired = desired(DomainPins(5))
        wait_until(lambda: (last_report(console)["pins_revision"], last_report(console)["pins_detail"]) == (5, ""))


def test_an_engine_says_what_it_cannot_obey(console: FakeConsole, tmp_path: Path) -> None:
    console.desired, engine = desired(PINS), FakeEngine()
    engine.pins = Pins(("no_training",), "it drafts for a batch as a whole")
    with replica(console, tmp_path, engine):
        wait_until(lambda: last_report(console).get("pins_revision") == 3)
        assert last_report(console)["pins_obeyed"] == ["no_training"]
        assert last_report(console)["pins_detail"] == "it drafts for a batch as a whole"


def test_no_training_counts_and_keeps_nothing_of_what_runs_already(console: FakeConsole, tmp_path: Path) -> None:
    """Its states were captured before the pin came; they are let go without being called dropped."""
    console.desired, engine = desired(PINS), FakeEngine()
    with replica(console, tmp_path, engine) as parts:
        wait_until(lambda: last_report(console).get("pins_revision") == 3)
        for domain in ("sql", "prose"):
            finished = make_finished(Request(domain, (1, 2), domain=domain), [3, 4, 5], (StepRecord((4,), 1),))
            parts.recorder.put(finished, is_trace=True)
        wait_until(lambda: counted(console) == {"sql", "prose"})
        wait_until(lambda: parts.recorder.num_traces)  # its segment is sealed later than counts are sent
        assert (parts.recorder.num_traces, parts.recorder.num_dropped_traces) == (1, 0)
