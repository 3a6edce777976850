"""Swaps and their proof, the engine's own reverts, the policy: what a replica makes of them, and after a restart."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serving.engine.api import DamagedDraftError, EngineSlowError, LoadedDraft, SwapError, SwapOutcome
from serving.trace.console import ConsoleClient
from serving.trace.desired_file import DesiredFile
from serving.trace.follower import Follower
from serving.trace.identity import Beside, Identity
from serving.trace.pins import PinFollower
from speculators.checkpoint import OtherLayersError
from speculators.records import LONGEST_SHA256, DesiredState, ObservedState
from tests.unit.serving.fakes import ConsoleServer, FakeConsole, FakeEngine, wait_until
from tests.unit.serving.tiny import SHAPE, make_draft

OBSERVED = "/api/v1/ingest/observed"
WHO = Identity("r1", "demo", "test", "http://127.0.0.1:1")
TARGET = {**SHAPE, "rope_theta": 10_000.0}
Want = Callable[..., None]


class Versions:
    """Checkpoints on disk, made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sha256: dict[int, str] = {}

    def of(self, number: int) -> tuple[str, str]:
        """(uri, sha256) of a version; ("", "") of version 0."""
        if number and number not in self.sha256:
            self.sha256[number] = make_draft(self.folder / f"v{number}", TARGET, seed=number)
        return (str(self.folder / f"v{number}"), self.sha256[number]) if number else ("", "")


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path / "versions")


@pytest.fixture
def want(console: FakeConsole, versions: Versions) -> Want:
    """Desire: ``want(generation, version)``."""

    def make(generation: int, version: int, lookahead: int = 4, control_share: float = 0.0) -> None:
        uri, sha256 = versions.of(version)
        console.desired = DesiredState(
            "demo", generation, version, uri, sha256, lookahead, control_share, 0.0
        ).to_json()

    return make


@contextmanager
def replica(
    console: FakeConsole, folder: Path, engine: Any, beside: Callable[[], Beside] = Beside, patience: float = 60.0
) -> Iterator[Follower]:
    """From its start to its stop; what it keeps for the next start is in ``folder``. ``patience``: seconds for that."""
    client, file = ConsoleClient(console.url, "secret"), DesiredFile(folder / "desired.json")
    pins = PinFollower(engine.pins, folder / "pins.json")
    follower = Follower(engine, client, WHO, TARGET, file, pins, beside, interval_seconds=0.01)
    follower.restore(patience)
    follower.start()
    try:
        yield follower
    finally:
        follower.stop()
        client.close()


@contextmanager
def serving(console: FakeConsole, want: Want, folder: Path, engine: Any, version: int = 1) -> Iterator[Follower]:
    """A replica that has reported that it serves the first version that was desired, or the second after it."""
    with replica(console, folder, engine) as follower:
        for number in range(1, version + 1):
            want(number, number)
            wait_until(lambda number=number: told(console, "state", "version") == ("serving", number))
        yield follower


def told(console: FakeConsole, *names: str) -> tuple[Any, ...]:
    """What the last report says of these fields."""
    found = console.of(OBSERVED)
    return tuple(found[-1][name] for name in names) if found else ()


def hear_more(console: FakeConsole) -> None:
    """Wait for reports that were made after now."""
    num = len(console.of(OBSERVED))
    wait_until(lambda: len(console.of(OBSERVED)) > num + 3)


# -- the policy -----------------------------------------------------------------------------------------------------


def test_a_change_of_the_policy_reaches_the_engine_without_a_swap(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    engine = FakeEngine()
    want(1, 1, lookahead=4, control_share=0.1)
    with replica(console, tmp_path, engine):
        wait_until(lambda: told(console, "state", "version") == ("serving", 1))
        want(1, 1, lookahead=0, control_share=0.5)
        wait_until(lambda: engine.policies[-1] == (0.5, 0))
        hear_more(console)
        assert told(console, "state", "generation", "version", "policy_detail") == ("serving", 1, 1, "")
    assert len(engine.previous) == 1  # one swap
    assert engine.policies == [(0.1, 4), (0.5, 0)]  # said once


def test_the_newest_policy_holds_after_a_restart_with_and_without_the_console(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    want(1, 1, lookahead=4, control_share=0.1)
    with replica(console, tmp_path, FakeEngine()):
        wait_until(lambda: told(console, "version") == (1,))
    want(1, 1, lookahead=2, control_share=0.2)  # while the replica is down
    engine = FakeEngine()
    with replica(console, tmp_path, engine):
        wait_until(lambda: engine.policies[-1] == (0.2, 2))
        wait_until(lambda: DesiredFile(tmp_path / "desired.json").read() == DesiredState.from_json(console.desired))
    console.status, engine = 503, FakeEngine()
    with replica(console, tmp_path, engine):
        assert (engine.version, engine.policies) == (1, [(0.2, 2)])


def test_the_policy_holds_before_there_is_a_version(console: FakeConsole, want: Want, tmp_path: Path) -> None:
    engine = FakeEngine()
    want(0, 0, lookahead=3, control_share=0.3)
    with replica(console, tmp_path, engine):
        wait_until(lambda: engine.policies == [(0.3, 3)])


def test_a_policy_that_the_engine_refuses_undoes_no_swap_and_is_said(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    engine = FakeEngine()
    with serving(console, want, tmp_path, engine):
        want(1, 1, lookahead=17)
        wait_until(lambda: "max_lookahead=17" in told(console, "policy_detail")[0])
        assert told(console, "state", "version") == ("serving", 1)
        want(1, 1, lookahead=5)
        wait_until(lambda: told(console, "policy_detail") == ("",))
        assert engine.policies[-1] == (0.0, 5)
        want(2, 2, lookahead=17)
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 2, 2))
        assert "max_lookahead=17" in told(console, "policy_detail")[0]


def test_a_policy_that_could_not_be_given_to_the_engine_is_given_again(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    class Busy(FakeEngine):
        num_refusals = 0

        def set_policy(self, *, control_share: float | None = None, max_lookahead: int | None = None) -> None:
            if control_share == 0.5 and self.num_refusals < 2:
                self.num_refusals += 1
                raise SwapError("the scheduler did not take it up")
            super().set_policy(control_share=control_share, max_lookahead=max_lookahead)

    engine = Busy()
    with serving(console, want, tmp_path, engine):
        want(1, 1, control_share=0.5)
        wait_until(lambda: engine.policies[-1] == (0.5, 4))
        wait_until(lambda: told(console, "policy_detail") == ("",))
    details = [each["policy_detail"] for each in console.of(OBSERVED)]
    assert any("did not take it up" in detail for detail in details)
    assert engine.num_refusals == 2


# -- the proof ------------------------------------------------------------------------------------------------------


def test_a_checksum_that_differs_brings_the_version_before_back(
    console: FakeConsole, want: Want, versions: Versions, tmp_path: Path
) -> None:
    engine = FakeEngine()
    with serving(console, want, tmp_path, engine):
        engine.digest_in_memory = "0" * 64
        want(2, 2)
        wait_until(lambda: told(console, "state", "generation") == ("swap_failed", 2))
        assert told(console, "version", "sha256") == (1, versions.sha256[1])
        assert told(console, "detail") == (f"in memory is {'0' * 64}, desired {versions.sha256[2]}",)
    console.status, again = 503, FakeEngine()
    with replica(console, tmp_path, again):
        assert (again.version, again.sha256) == (1, versions.sha256[1])


def test_what_was_read_wrongly_is_read_again_when_it_is_desired_again(
    console: FakeConsole, want: Want, versions: Versions, tmp_path: Path
) -> None:
    engine = FakeEngine()
    engine.digest_in_memory = "0" * 64
    want(1, 1)
    with replica(console, tmp_path, engine):
        wait_until(lambda: told(console, "state", "generation") == ("swap_failed", 1))
        engine.digest_in_memory = None
        want(2, 1)
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 2, 1))
        assert engine.sha256 == versions.sha256[1]


def test_what_the_engine_refused_is_read_again_when_it_is_desired_again(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    class Refusing(FakeEngine):
        def swap(self, version: int, draft: Any, **options: Any) -> Future[SwapOutcome]:
            if self.digest_in_memory:
                raise SwapError(f"in memory is {self.digest_in_memory}")
            return super().swap(version, draft, **options)

    engine = Refusing()
    engine.digest_in_memory = "0" * 64
    want(1, 1)
    with replica(console, tmp_path, engine):
        wait_until(lambda: told(console, "state", "detail") == ("swap_failed", f"in memory is {'0' * 64}"))
        engine.digest_in_memory = None
        want(2, 1)
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 2, 1))
    assert len(engine.loads) == 2


@pytest.mark.parametrize("is_the_file_good", [True, False])
def test_what_was_damaged_while_it_waited_in_memory_is_read_again_at_once(
    console: FakeConsole, want: Want, tmp_path: Path, is_the_file_good: bool
) -> None:
    class Damaging(FakeEngine):
        is_damaged = False

        def load_draft(self, directory: Path, expected_sha256: str | None = None) -> LoadedDraft:
            self.is_damaged = self.is_damaged and not is_the_file_good
            return super().load_draft(directory, expected_sha256)

        def swap(self, version: int, draft: Any, **options: Any) -> Future[SwapOutcome]:
            if self.is_damaged:
                raise DamagedDraftError("in memory is something else")
            return super().swap(version, draft, **options)

    engine = Damaging()
    with serving(console, want, tmp_path, engine, version=2):
        engine.is_damaged = True
        want(3, 1)
        state = ("serving", 1) if is_the_file_good else ("swap_failed", 2)
        wait_until(lambda: told(console, "generation", "state", "version") == (3, *state))
    assert len(engine.loads) == 3


def test_a_version_that_does_not_come_back_hides_nothing(console: FakeConsole, want: Want, tmp_path: Path) -> None:
    class Stuck(FakeEngine):
        def revert(self, detail: str) -> Future[SwapOutcome]:
            future: Future[SwapOutcome] = Future()
            future.set_exception(LookupError("nothing before it"))
            return future

    engine = Stuck()
    with serving(console, want, tmp_path, engine):
        engine.digest_in_memory = "0" * 64
        want(2, 2)
        wait_until(lambda: told(console, "state", "generation") == ("swap_failed", 2))
        [detail] = told(console, "detail")
        assert detail.startswith(f"in memory is {'0' * 64}, desired ")
        assert detail.endswith("version 1 does not come back: LookupError: nothing before it")
        assert told(console, "version", "sha256") == (2, "0" * 64)  # what is there, not what should be


def test_a_version_that_was_deleted_while_the_replica_was_down_is_no_failed_swap(
    console: FakeConsole, want: Want, versions: Versions, tmp_path: Path
) -> None:
    """It starts as a new replica does, and is told what is desired now."""
    with serving(console, want, tmp_path, FakeEngine(), version=2):
        pass
    shutil.rmtree(versions.of(2)[0])
    num_reports = len(console.of(OBSERVED))
    want(3, 1)
    with replica(console, tmp_path, FakeEngine()):
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 3, 1))
    found = console.of(OBSERVED)[num_reports:]
    assert (found[0]["state"], found[0]["generation"], found[0]["version"]) == ("starting", 0, 0)
    assert "version 2 served before the restart, and cannot be restored: " in found[0]["detail"]
    assert "swap_failed" not in {each["state"] for each in found}


# -- a swap that fails ----------------------------------------------------------------------------------------------


def test_whatever_a_swap_fails_with_is_said_once_and_the_next_generation_is_tried(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    engine = FakeEngine()
    with serving(console, want, tmp_path, engine):
        engine.fails = RuntimeError("CUDA out of memory")
        want(2, 2)
        wait_until(lambda: told(console, "state", "generation") == ("swap_failed", 2))
        assert told(console, "detail", "version") == ("RuntimeError: CUDA out of memory", 1)
        hear_more(console)
        assert (told(console, "state"), len(engine.loads)) == (("swap_failed",), 2)
        engine.fails = None
        want(3, 2)
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 3, 2))


def test_what_the_engine_is_too_slow_for_is_tried_again_and_is_no_failed_swap(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    class Slow(FakeEngine):
        num_refusals = 0

        def swap(self, version: int, draft: Any, **options: Any) -> Future[SwapOutcome]:
            if version == 2 and self.num_refusals < 3:
                self.num_refusals += 1
                raise EngineSlowError("the scheduler did not take it up")
            return super().swap(version, draft, **options)

    engine = Slow()
    with serving(console, want, tmp_path, engine):
        want(2, 2)
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 2, 2))
        assert told(console, "detail") == ("",)
    found = console.of(OBSERVED)
    waiting = [each for each in found if each["detail"]]
    assert {(each["state"], each["generation"], each["version"]) for each in waiting} == {("swapping", 1, 1)}
    assert waiting[-1]["detail"] == "version 2 is tried again: the scheduler did not take it up"
    assert "swap_failed" not in {each["state"] for each in found}
    assert engine.num_refusals == 3


def test_a_new_generation_does_not_wait_for_what_was_put_off(console: FakeConsole, want: Want, tmp_path: Path) -> None:
    class Slow(FakeEngine):
        def swap(self, version: int, draft: Any, **options: Any) -> Future[SwapOutcome]:
            if version == 2:
                raise EngineSlowError("the scheduler did not take it up")
            return super().swap(version, draft, **options)

    with serving(console, want, tmp_path, Slow()) as follower:
        want(2, 2)
        wait_until(lambda: "is tried again" in told(console, "detail")[0])
        follower._late_until = math.inf
        want(3, 1)
        wait_until(lambda: told(console, "state", "generation", "detail") == ("serving", 3, ""))


def test_capture_is_broken_while_the_desired_draft_reads_other_layers(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    """Also where what is desired next is what serves already."""
    engine = FakeEngine()
    with serving(console, want, tmp_path, engine) as follower:
        engine.fails = OtherLayersError("it reads layers (0, 3, 4), this engine captures (1, 3, 4)")
        want(2, 2)
        wait_until(lambda: told(console, "state", "capture_state") == ("swap_failed", "broken"))
        assert told(console, "capture_detail") == told(console, "detail") == (str(engine.fails),)
        want(3, 1)
        wait_until(lambda: told(console, "state", "generation", "capture_state") == ("serving", 3, "working"))
        want(4, 2)
        wait_until(lambda: told(console, "state", "capture_state") == ("swap_failed", "broken"))
        engine.fails = RuntimeError("no room")  # says nothing about layers
        want(5, 2)
        wait_until(lambda: told(console, "generation", "state", "capture_state") == (5, "swap_failed", "broken"))
        assert follower.other_layers


def test_a_console_that_finds_fault_with_a_report_still_hears_that_a_swap_failed(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    plain = console.answer

    def strict(path: str, payload: Any) -> tuple[int, Any]:
        if path == OBSERVED and payload["ranks"]:
            return 422, {"detail": "ObservedState.ranks: not like this"}
        return plain(path, payload)

    console.answer = strict  # type: ignore[method-assign]
    engine = FakeEngine()
    engine.fails = RuntimeError("no")
    want(1, 1)
    with replica(console, tmp_path, engine, lambda: Beside(ranks=("a", "b"))):
        wait_until(lambda: told(console, "state", "generation") == ("swap_failed", 1))
        assert told(console, "detail", "capture_state") == ("RuntimeError: no", "broken")
        assert "ObservedState.ranks: not like this" in told(console, "capture_detail")[0]


def test_long_texts_are_cut_to_what_the_console_takes(console: FakeConsole, want: Want, tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.fails = RuntimeError("\0" + "x" * 20_000)
    want(1, 1)
    long = Beside(ranks=("no proof: " + "y" * 100, ""), target_sha256="z" * 100)
    with replica(console, tmp_path, engine, lambda: long):
        wait_until(lambda: told(console, "state") == ("swap_failed",))
        ranks, target, detail = told(console, "ranks", "target_sha256", "detail")
        assert [len(each) for each in (ranks[0], target, detail)] == [LONGEST_SHA256, LONGEST_SHA256, 10_000]
        assert ranks[1] == "none" and "\0" not in detail


def test_a_swap_that_is_due_while_the_console_is_away_is_made_when_it_is_back(
    console_server: ConsoleServer, want: Want, tmp_path: Path
) -> None:
    console, engine = console_server.console, FakeEngine()
    with serving(console, want, tmp_path, engine) as follower:
        console_server.stop()
        want(2, 2)
        num_failed = follower.num_failed_reports
        wait_until(lambda: follower.num_failed_reports > num_failed + 1)
        assert engine.version == 1
        console_server.start()
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 2, 2))


# -- a full disk ----------------------------------------------------------------------------------------------------


def test_what_served_well_is_written_once_the_disk_takes_it(console: FakeConsole, want: Want, tmp_path: Path) -> None:
    """A directory in the place of the file that becomes it refuses it, as a full disk does."""
    file, obstacle = DesiredFile(tmp_path / "desired.json"), tmp_path / ".desired.json.tmp"
    with serving(console, want, tmp_path, FakeEngine()):
        obstacle.mkdir()
        want(2, 2)
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 2, 2))
        hear_more(console)
        assert (kept := file.read()) is not None and kept.version == 1
        obstacle.rmdir()
        wait_until(lambda: (kept := file.read()) is not None and kept.version == 2)


def test_a_full_disk_keeps_no_replica_from_its_start(console: FakeConsole, want: Want, tmp_path: Path) -> None:
    with serving(console, want, tmp_path, FakeEngine()):
        pass
    (tmp_path / ".desired.json.tmp").mkdir()
    console.status, again = 503, FakeEngine()
    with replica(console, tmp_path, again):
        assert again.version == 1


# -- the engine's own revert ----------------------------------------------------------------------------------------


def test_a_revert_is_reported_and_a_restart_does_not_serve_the_collapsed_version(
    console: FakeConsole, want: Want, versions: Versions, tmp_path: Path
) -> None:
    engine, file = FakeEngine(), DesiredFile(tmp_path / "desired.json")
    with serving(console, want, tmp_path, engine, version=2):
        engine.revert("collapsed")
        wait_until(lambda: told(console, "state") == ("reverted",))
        assert told(console, "detail") == ("version 2: accept length 1.01 < 1.10",)
        assert told(console, "generation", "version", "sha256") == (2, 1, versions.sha256[1])
        wait_until(lambda: (kept := file.read()) is not None and kept.version == 1)
    console.status, again = 503, FakeEngine()
    with replica(console, tmp_path, again):
        assert (again.version, again.sha256) == (1, versions.sha256[1])
    console.status = 200
    want(3, 1)
    with replica(console, tmp_path, FakeEngine()):
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 3, 1))


def test_a_revert_of_the_first_version_leaves_nothing_to_serve_after_a_restart(
    console: FakeConsole, want: Want, tmp_path: Path
) -> None:
    engine, file = FakeEngine(), tmp_path / "desired.json"
    with serving(console, want, tmp_path, engine):
        engine.revert("collapsed")
        wait_until(lambda: told(console, "state", "version") == ("reverted", 0))
        wait_until(lambda: not file.exists())
    console.status, again = 503, FakeEngine()
    with replica(console, tmp_path, again):
        assert (again.version, again.loads) == (0, [])


def test_what_the_console_desires_after_a_revert_ends_it(console: FakeConsole, want: Want, tmp_path: Path) -> None:
    engine = FakeEngine()
    with serving(console, want, tmp_path, engine, version=2):
        engine.revert("collapsed")
        wait_until(lambda: told(console, "state") == ("reverted",))
        want(3, 1)  # it is served already
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 3, 1))


def test_the_core_of_a_report_is_a_report() -> None:
    whole = ObservedState(
        "r1", "demo", "test", "http://127.0.0.1:1", 3, 2, "0" * 64, "swap_failed", "why", 1.5, 2.0, 64, 3, 4, 5, 6.0,
        ranks=("a",), policy_detail="p",
    )  # fmt: skip
    core = whole.core("refused")
    assert (core.generation, core.version, core.sha256, core.state, core.detail) == (
        3,
        2,
        "0" * 64,
        "swap_failed",
        "why",
    )
    assert (core.ranks, core.capture_detail, core.reported_at, core.num_running) == ((), "refused", 6.0, 0)
    assert ObservedState.from_json(core.to_json()) == core
