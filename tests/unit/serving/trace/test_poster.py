"""Every announcement reaches the console once it can, and a refused one is set aside with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.trace.console import Backoff, ConsoleClient
from serving.trace.poster import Poster
from serving.trace.spool import Spool
from tests.unit.serving.fakes import ConsoleServer, FakeConsole, wait_until


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool")
    yield spool
    spool.close()


@pytest.fixture
def poster(spool: Spool, console: FakeConsole) -> Iterator[Poster]:
    poster = Poster(spool, ConsoleClient(console.url, "secret"), Backoff(most_seconds=0.05))
    poster.start()
    yield poster
    poster.stop(0)


def test_segments_and_counts_go_to_their_calls(spool: Spool, console: FakeConsole, poster: Poster) -> None:
    spool.put("a", {"segment": {}, "traces": []})
    spool.put("counts-b", {"counts": []})
    wait_until(lambda: len(spool) == 0)
    assert [path for path, _ in console.calls] == ["/api/v1/ingest/segments", "/api/v1/ingest/counts"]
    assert console.of("/api/v1/ingest/segments") == [{"segment": {}, "traces": []}]
    assert console.tokens == {"Bearer secret"}
    assert not list(spool.directory.glob("*.json"))


def test_a_console_that_is_away_gets_all_of_it_later(spool: Spool, console_server: ConsoleServer) -> None:
    console = console_server.console
    console_server.stop()
    poster = Poster(spool, ConsoleClient(console.url, ""), Backoff(most_seconds=0.05))
    poster.start()
    for name in "abc":
        spool.put(name, {"name": name})
    wait_until(lambda: poster.num_failures > 2)
    assert len(spool) == 3
    console_server.start()
    wait_until(lambda: len(spool) == 0)
    poster.stop()
    assert [payload["name"] for payload in console.of("/api/v1/ingest/segments")] == ["a", "b", "c"]


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 503])
def test_what_may_pass_later_is_kept(status: int, spool: Spool, console: FakeConsole, poster: Poster) -> None:
    console.status = status
    spool.put("a", {"name": "a"})
    wait_until(lambda: poster.num_failures > 1)
    assert spool.num_rejected == 0
    console.status = 200
    wait_until(lambda: len(spool) == 0)
    assert len(console.of("/api/v1/ingest/segments")) == 1


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_what_will_never_pass_is_set_aside(status: int, spool: Spool, console: FakeConsole, poster: Poster) -> None:
    console.status = status
    spool.put("a", {"name": "a"})
    wait_until(lambda: len(spool) == 0)  # the last of the steps with which the poster sets it aside
    assert spool.num_rejected == 1
    assert "scripted failure" in (spool.directory / "rejected" / "a.response.json").read_text()
    console.status = 200
    spool.put("b", {"name": "b"})
    wait_until(lambda: len(spool) == 0)
    assert len(console.calls) == 1


def test_nothing_is_kept_of_a_target_that_the_console_does_not_have(
    spool: Spool, console: FakeConsole, poster: Poster, tmp_path: Path
) -> None:
    """They may be many, come long before the target is registered, and hold people's text."""
    states = tmp_path / "a.safetensors"
    states.write_bytes(b"hidden states")
    console.status = 404
    spool.put("a", {"segment": {"uri": str(states)}, "traces": [1, 2, 3]})
    spool.put("counts-b", {"counts": [{}]})
    wait_until(lambda: spool.num_dropped == 2)
    assert (len(spool), spool.num_bytes, spool.num_rejected, spool.num_rejected_traces) == (0, 0, 0, 3)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]
    console.status = 200
    spool.put("c", {"name": "c"})
    wait_until(lambda: console.calls and len(spool) == 0)
    assert spool.num_dropped == 2


def test_what_was_set_aside_goes_while_nothing_else_happens(
    console: FakeConsole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.trace.spool.PRUNE_SECONDS", 0.01)
    console.status = 400
    spool = Spool(tmp_path, most_rejected_seconds=0.05)
    poster = Poster(spool, ConsoleClient(console.url, ""))
    poster.start()
    spool.put("a", {"traces": [1]})
    wait_until(lambda: spool.num_rejected_traces == 1)
    wait_until(lambda: spool.num_rejected == 0)
    poster.stop(0)
    spool.close()
    assert list((tmp_path / "rejected").iterdir()) == []


def test_one_that_breaks_the_console_does_not_hold_up_the_others(
    spool: Spool, console: FakeConsole, poster: Poster, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = console.answer
    monkeypatch.setattr(
        console, "answer", lambda path, payload: (500, {}) if payload["name"] == "bad" else answer(path, payload)
    )
    spool.put("bad", {"name": "bad"})
    spool.put("good", {"name": "good"})
    wait_until(lambda: console.calls and len(spool) == 1)  # acknowledged a moment after the console has it


def test_backoff_grows_to_its_limit_and_starts_again() -> None:
    backoff = Backoff(most_seconds=4.0)
    waits = [backoff.failed() for _ in range(8)]
    assert 0.25 <= waits[0] <= 0.5
    assert 2.0 <= waits[-1] <= 4.0
    backoff.succeeded()
    assert backoff.failed() <= 0.5
