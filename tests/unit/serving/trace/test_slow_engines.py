"""An engine that takes its time, or is too slow for once: what the console hears meanwhile, and what comes of it."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from serving.engine.api import EngineSlowError, SwapOutcome
from speculators.records import DomainPin, DomainPins
from tests.unit.serving.fakes import FakeConsole, FakeEngine, wait_until
from tests.unit.serving.trace.test_following import Want, hear_more, replica, serving, told, versions, want

__all__ = ["versions", "want"]  # fixtures


class Gated(FakeEngine):
    """Takes version 2 when ``gate`` opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def swap(self, version: int, draft: Any, **options: Any) -> Future[SwapOutcome]:
        if version == 2:
            assert self.gate.wait(60)
        return super().swap(version, draft, **options)


class Slow(FakeEngine):
    """Is too slow for its first swaps."""

    num_refusals = 2

    def swap(self, version: int, draft: Any, **options: Any) -> Future[SwapOutcome]:
        if self.num_refusals:
            self.num_refusals -= 1
            raise EngineSlowError("the scheduler did not take it up")
        return super().swap(version, draft, **options)


def test_while_a_swap_goes_on_reports_do_and_nothing_newer_is_followed_but_pins(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    engine = Gated()
    with serving(console, want, tmp_path, engine):
        want(2, 2)
        wait_until(lambda: told(console, "state") == ("swapping",))
        want(3, 1, control_share=0.5)
        pins = DomainPins(7, (DomainPin("sql", no_training=True),))
        console.desired = console.desired | {"pins": pins.to_json()}
        wait_until(lambda: told(console, "pins_revision") == (7,))
        assert told(console, "state", "generation", "version") == ("swapping", 1, 1)
        assert engine.policies[-1] == (0.0, 4)
        engine.gate.set()
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 3, 1))
    assert [version for version, _ in engine.previous] == [0, 1, 2]  # each once, in their order


def test_the_proof_goes_out_as_soon_as_the_swap_has_ended(console: FakeConsole, want: Want, tmp_path: Path) -> None:
    engine = Gated()
    with serving(console, want, tmp_path, engine) as follower:
        want(2, 2)
        wait_until(lambda: told(console, "state") == ("swapping",))
        asked, sleep = [], follower._interval.sleep
        follower._interval.sleep = lambda seconds: asked.append(seconds) or sleep(seconds)  # type: ignore[method-assign]
        follower.interval_seconds = 3600.0
        wait_until(lambda: 3600.0 in asked)
        engine.gate.set()
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 2, 2))


def test_a_version_in_memory_that_is_not_proved_yet_is_not_reported(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    class Unproved(Gated):
        def swap(self, version: int, draft: Any, **options: Any) -> Future[SwapOutcome]:
            if version == 2:
                self.version, self.sha256 = 2, ""
            return super().swap(version, draft, **options)

    engine = Unproved()
    with serving(console, want, tmp_path, engine):
        want(2, 2)
        wait_until(lambda: engine.version == 2)
        hear_more(console)
        assert told(console, "state", "generation", "version") == ("swapping", 1, 1)
        engine.gate.set()
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 2, 2))


def test_a_restart_reports_while_the_engine_takes_up_what_served_before(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    with serving(console, want, tmp_path, FakeEngine(), version=2):
        pass
    num, engine = len(console.calls), Gated()
    with replica(console, tmp_path, engine, patience=0.0):
        wait_until(lambda: len(console.calls) > num)
        hear_more(console)
        assert told(console, "state", "generation", "version") == ("swapping", 0, 0)
        engine.gate.set()
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 2, 2))
    assert len(engine.previous) == 1


def test_what_served_before_a_restart_is_tried_again_without_the_console(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    with serving(console, want, tmp_path, FakeEngine()):
        pass
    console.status, engine = 503, Slow()
    with replica(console, tmp_path, engine):
        wait_until(lambda: engine.version == 1)
        console.status = 200
        wait_until(lambda: told(console, "state", "generation", "version", "detail") == ("serving", 1, 1, ""))
    assert engine.num_refusals == 0


def test_a_version_that_the_engine_was_too_slow_for_is_tried_again_without_the_console(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    engine = Slow()
    engine.num_refusals = 0
    with serving(console, want, tmp_path, engine):
        engine.num_refusals = 1_000_000
        want(2, 2)
        wait_until(lambda: "is tried again" in told(console, "detail")[0])
        console.status = 503
        engine.num_refusals = 0
        wait_until(lambda: engine.version == 2)


def test_a_console_that_desires_nothing_ends_the_tries(console: FakeConsole, want: Want, tmp_path: Path) -> None:
    with serving(console, want, tmp_path, FakeEngine()):
        pass
    console.desired = console.desired | {"generation": 0, "version": 0, "uri": "", "sha256": ""}
    engine = Slow()
    with replica(console, tmp_path, engine) as follower:
        wait_until(lambda: told(console, "state", "generation", "detail") == ("serving", 0, ""))
        assert follower._late is None
