"""A server whose target the console does not know tells it what it serves, and goes on once it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.trace.console import ConsoleClient
from serving.trace.desired_file import DesiredFile
from serving.trace.follower import Follower
from serving.trace.identity import Beside, Identity
from serving.trace.pins import PinFollower
from speculators.records import Announcement, DesiredState
from tests.unit.serving.fakes import FakeConsole, FakeEngine, wait_until

WHO = Identity("r1", "tiny", "sglang 0.5.21", "http://127.0.0.1:30000", "/models/tiny", "/drafts/tiny", (1, 3, 4))
ANNOUNCE = "/api/v1/ingest/announce"
Start = Callable[[Identity], Follower]


@pytest.fixture
def start(console: FakeConsole, tmp_path: Path) -> Iterator[Start]:
    started: list[Follower] = []

    def make(who: Identity) -> Follower:
        client, file = ConsoleClient(console.url, "secret"), DesiredFile(tmp_path / "desired.json")
        engine: Any = FakeEngine()
        pins = PinFollower(engine.pins, tmp_path / "pins.json")
        follower = Follower(engine, client, who, {"hidden_size": 32}, file, pins, Beside, interval_seconds=0.01)
        follower.start()
        started.append(follower)
        return follower

    yield make
    for follower in started:
        follower.stop()


def announced(console: FakeConsole) -> list[Any]:
    return [payload for path, payload in list(console.refused) if path == ANNOUNCE]


def test_it_says_what_it_serves_until_it_is_known(console: FakeConsole, start: Start) -> None:
    console.status = 404
    start(WHO)
    wait_until(lambda: len(announced(console)) > 1)
    said = Announcement.from_json(announced(console)[0])
    assert (said.target, said.model_path, said.draft_path) == ("tiny", "/models/tiny", "/drafts/tiny")
    assert (said.aux_layer_ids, said.config) == ((1, 3, 4), {"hidden_size": 32})
    console.desired = DesiredState("tiny", 0, 0, "", "", 4, 0.0, 0.0).to_json()
    console.status = 200
    wait_until(lambda: len(console.of("/api/v1/ingest/observed")) > 1)
    assert console.of(ANNOUNCE) == []


def test_a_console_that_is_away_hears_no_announcement(console: FakeConsole, start: Start) -> None:
    console.status = 503
    follower = start(WHO)
    wait_until(lambda: follower.num_failed_reports > 1)
    assert announced(console) == []


def test_an_engine_of_this_machine_announces_nothing(console: FakeConsole, start: Start) -> None:
    console.status = 404
    follower = start(replace(WHO, model_path=""))
    wait_until(lambda: follower.num_failed_reports > 1)
    assert announced(console) == []
