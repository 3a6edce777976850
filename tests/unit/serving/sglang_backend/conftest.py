"""Fixtures of what stands beside an SGLang server."""

from __future__ import annotations

import pytest

from serving.trace.console import ConsoleClient
from serving.trace.desired_file import DesiredFile
from serving.trace.follower import Follower
from serving.trace.identity import Beside, Identity
from serving.trace.pins import PinFollower
from speculators import checkpoint
from speculators.records import DesiredState
from tests.unit.serving.sglang_backend.fakes import CONFIG, TARGET, draft_state
from tests.unit.serving.sglang_backend.one_rank import Rank, sha256
from tests.unit.serving.sglang_backend.scripted import Scripted


@pytest.fixture
def scripted(tmp_path):
    checkpoint.save(tmp_path / "launched", CONFIG, draft_state(0))
    checkpoint.save(tmp_path / "next", CONFIG, draft_state(1))
    found = Scripted(tmp_path / "launched")
    yield found
    found.gate.set()
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def rank(tmp_path):
    for seed in range(4):
        sha256(seed)  # now: weights are drawn from torch's own generator, which threads share
    found = Rank(tmp_path)
    yield found
    found.stop()


@pytest.fixture
def follow(rank, console, tmp_path):
    """Desire a version: ``follow(generation, version)``; the loop to the console runs on the engine."""
    client = ConsoleClient(console.url, "secret")
    follower = Follower(
        rank.engine, client, Identity("r1", "demo", "sglang", "http://127.0.0.1:1"), TARGET,
        DesiredFile(tmp_path / "desired.json"), PinFollower(rank.engine.pins, tmp_path / "pins.json"),
        lambda: Beside(ranks=rank.engine.ranks), interval_seconds=0.01,
    )  # fmt: skip
    console.desired = DesiredState("demo", 0, 0, "", "", 4, 0.0, 0.0).to_json()

    def want(generation: int, version: int) -> None:
        uri = str(rank.uri(version))
        console.desired = DesiredState("demo", generation, version, uri, sha256(version), 4, 0.0, 0.0).to_json()

    follower.start()
    yield want
    follower.stop()
    client.close()
