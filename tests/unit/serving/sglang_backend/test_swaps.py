"""The plugin's engine over one real rank, and a second one that says what a test has it say."""

from __future__ import annotations

import functools
import queue
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from serving.engine.api import EngineSlowError, SwapError
from serving.engine.pins import Pins
from serving.engine.versions import Served, Versions
from serving.sglang_backend import engine as engine_module
from serving.sglang_backend.control import ControlPolicy
from serving.sglang_backend.engine import PROBE_STEPS, SglangEngine, launched
from serving.sglang_backend.guard import Guard
from serving.sglang_backend.ranks import Command, RankSwapper
from serving.sglang_backend.roll_call import RollCall
from serving.sglang_backend.weights import DraftMemory
from serving.trace.console import ConsoleClient
from serving.trace.desired_file import DesiredFile
from serving.trace.follower import Follower
from serving.trace.identity import Beside, Identity
from serving.trace.pins import PinFollower
from speculators import checkpoint
from speculators.records import DesiredState
from tests.unit.serving.fakes import wait_until
from tests.unit.serving.sglang_backend.fakes import CONFIG, FakeDraftModel, FakeRunner, draft_state
from tests.unit.serving.sglang_backend.test_ranks import ask, swap, swapper
from tests.unit.serving.sglang_backend.test_sidecar import TARGET, reports, told

WRONG = "f" * 64


def agrees(line: str) -> str:
    return line


class Pair:
    """Two ranks; ``other`` is what the second one says where the first says ``line``."""

    size = 2

    def __init__(self) -> None:
        self.other = agrees

    def gather(self, line: str) -> tuple[str, str]:
        return line, self.other(line)


class Booked:
    """An assembler that has nothing else to do."""

    num_running = num_finished = num_steps = num_proposed = num_correct = num_accepted = num_errors = 0

    def __init__(self, versions: Versions) -> None:
        self.versions = versions
        self.queue = self

    def put(self, event) -> None:
        if event.detail:
            self.versions.revert(event.detail)
        else:
            self.versions.swap(event.served.version, event.served.draft, event.min_accept_length)


class Rank:
    """Rank 0 with its scheduler: ``engine`` is what the follower sees, ``memory`` what serves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory = DraftMemory(FakeRunner(FakeDraftModel()))
        self.memory.load(self.memory.staged(draft_state(0)))
        self.pair, self.policy, self.guard = Pair(), ControlPolicy(4), Guard()
        self.swapper = RankSwapper(self.memory, self.pair, self._applied, self._policy)
        versions: Versions = Versions(PROBE_STEPS, 4)
        versions.live = Served(0, launched(self.memory, "/launch"))
        roll = RollCall()
        roll.say()
        given = (self.swapper, roll, versions, Booked(versions), self.policy, CONFIG.aux_layer_ids, Pins())
        self.engine = SglangEngine(*given)
        self.is_turning = threading.Event()
        self.is_turning.set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._turns, daemon=True)
        self._thread.start()

    def _applied(self, command) -> None:
        self.engine.assembler.queue.put(self.engine.applied(command))

    def _policy(self, command) -> None:
        self.policy.control_share, self.policy.is_speculating = command.control_share, command.is_speculating

    def _turns(self) -> None:
        while not self._stopped.is_set():
            while self.engine.outbox and self.is_turning.is_set():
                command = self.engine.outbox.popleft()
                self.guard.run("command", lambda command=command: self.swapper.handle(command), is_owed=True)
            time.sleep(0.001)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def uri(self, seed: int) -> Path:
        folder = self.folder / f"v{seed}"
        if not folder.exists():
            checkpoint.save(folder, CONFIG, draft_state(seed))
        return folder

    def swap(self, version: int):
        return self.engine.swap(version, self.engine.load_draft(self.uri(version), sha256(version)))

    def shown(self) -> tuple[int, str]:
        stats = self.engine.stats()
        return stats.version, stats.sha256


def on_device(one: RankSwapper) -> int:
    """Checkpoints that are staged."""
    return sum(future.result().payload is not None for future in one._prepared.values())


@functools.cache
def sha256(seed: int) -> str:
    return checkpoint.state_digest(draft_state(seed))


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


def test_a_swap_is_proved_by_every_rank(rank):
    assert rank.shown() == (0, sha256(0))
    outcome = rank.swap(1).result()
    assert (outcome.version, outcome.sha256, outcome.previous) == (1, sha256(1), 0)
    assert rank.shown() == (1, sha256(1))
    assert rank.engine.ranks == (sha256(1),) * 2
    assert rank.memory.holds(draft_state(1))


def test_what_is_said_of_the_target_is_of_after_the_last_swap(rank, monkeypatch):
    """A change stays said while it is read again."""
    engine, is_told = rank.engine, queue.Queue()
    monkeypatch.setattr(engine, "_target_on_all_ranks", lambda: is_told.get(timeout=60))
    for version, before, found in ((1, "", "first"), (2, "", "first"), (3, "", "changed"), (1, "changed", "first")):
        rank.swap(version).result()
        assert engine.target_sha256 == before
        is_told.put(found)
        wait_until(lambda found=found: engine.target_sha256 == found)


def test_a_policy_reaches_the_ranks_without_a_swap(rank, console, follow):
    follow(1, 1)
    wait_until(lambda: told(console, "state", "version") == ("serving", 1))
    console.desired = console.desired | {"control_share": 0.5, "lookahead": 0}
    wait_until(lambda: (rank.policy.control_share, rank.policy.is_speculating) == (0.5, False))
    assert told(console, "state", "generation", "version") == ("serving", 1, 1)


def test_ranks_that_hold_different_weights_go_back_together(rank, console, follow):
    follow(1, 1)
    wait_until(lambda: told(console, "state", "version") == ("serving", 1))
    rank.pair.other = lambda line: WRONG if line == sha256(2) else line
    follow(2, 2)
    wait_until(lambda: told(console, "state", "generation") == ("swap_failed", 2))
    assert told(console, "detail") == (f"in memory is rank 1: {WRONG}, desired {sha256(2)}",)
    assert told(console, "version", "sha256", "ranks") == (1, sha256(1), [sha256(1)] * 2)
    assert rank.memory.holds(draft_state(1))
    rank.pair.other = agrees
    follow(3, 2)
    wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 3, 2))


def test_ranks_that_cannot_go_back_either_are_reported_as_they_are(rank, console, follow):
    """With a text that is longer than a checksum, which the console would refuse."""
    follow(1, 1)
    wait_until(lambda: told(console, "state", "version") == ("serving", 1))
    no_proof = "no proof: RuntimeError: " + "CUDA error " * 20
    rank.pair.other = lambda line: no_proof if len(line) == 64 else line
    follow(2, 2)
    wait_until(lambda: told(console, "state", "generation") == ("swap_failed", 2))
    [detail] = told(console, "detail")
    assert f"in memory is rank 1: {no_proof}, desired {sha256(2)}" in detail
    assert "version 1 does not come back: SwapError: in memory is rank 1: no proof" in detail
    version, in_memory, ranks = told(console, "version", "sha256", "ranks")
    assert (version, in_memory) == (1, f"rank 1: {no_proof}"[:64])
    assert ranks == [sha256(1), no_proof[:64]]


def test_what_memory_holds_is_compared_and_reported_on_one_rank_too(rank, console, follow):
    follow(1, 1)
    wait_until(lambda: told(console, "state", "version") == ("serving", 1))
    whole = rank.memory.load
    found = []

    def spoilt(payload) -> None:
        whole(payload)
        rank.memory.load = whole
        rank.memory.model.model.fc.weight.data[0, 0] += 1
        found.append(checkpoint.state_digest(rank.memory.state()))

    rank.memory.load = spoilt
    follow(2, 2)
    wait_until(lambda: told(console, "state", "generation") == ("swap_failed", 2))
    assert found[0] in told(console, "detail")[0]
    assert told(console, "version", "sha256") == (1, sha256(1))


def test_a_copy_that_fails_is_known_at_once_and_taken_back(rank, console, follow, monkeypatch):
    monkeypatch.setattr(engine_module, "TURN_SECONDS", 3600.0)  # no command is waited for
    follow(1, 1)
    wait_until(lambda: told(console, "state", "version") == ("serving", 1))
    whole = rank.memory.load

    def halfway(payload) -> None:
        rank.memory.load = whole
        whole(payload)
        raise RuntimeError("an illegal memory access")

    rank.memory.load = halfway
    follow(2, 2)
    wait_until(lambda: told(console, "state", "generation") == ("swap_failed", 2))
    assert "no proof: the copy failed: RuntimeError: an illegal memory access" in told(console, "detail")[0]
    assert told(console, "version", "sha256") == (1, sha256(1))
    assert rank.memory.holds(draft_state(1))


def test_a_scheduler_that_stands_still_is_asked_again_until_it_turns(rank, console, follow, monkeypatch):
    follow(1, 1)
    wait_until(lambda: told(console, "state", "version") == ("serving", 1))
    monkeypatch.setattr(engine_module, "TURN_SECONDS", 0.2)
    rank.is_turning.clear()
    follow(2, 2)
    why = "version 2 is tried again: the scheduler did not take up 'prepare' within 0 s"
    wait_until(lambda: told(console, "state", "generation", "version", "detail") == ("swapping", 1, 1, why))
    monkeypatch.setattr(engine_module, "TURN_SECONDS", 60.0)
    rank.is_turning.set()
    wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 2, 2))
    assert "swap_failed" not in {each["state"] for each in reports(console)}
    assert rank.memory.holds(draft_state(2))


def test_a_command_that_is_given_up_is_not_obeyed_later(rank, monkeypatch):
    monkeypatch.setattr(engine_module, "TURN_SECONDS", 0.2)
    rank.is_turning.clear()
    assert isinstance(rank.swap(1).exception(), EngineSlowError)
    assert {"prepare", "apply"}.isdisjoint(command.kind for command in rank.engine.outbox)


def test_no_room_for_a_checkpoint_fails_that_swap_and_no_other(rank, console, follow):
    follow(1, 1)
    wait_until(lambda: told(console, "state", "version") == ("serving", 1))
    staged = rank.memory.staged

    def full(state):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.70 GiB")

    rank.memory.staged = full
    follow(2, 2)
    wait_until(lambda: told(console, "state", "generation") == ("swap_failed", 2))
    assert told(console, "detail") == ("OutOfMemoryError: CUDA out of memory. Tried to allocate 1.70 GiB",)
    assert told(console, "version", "sha256") == (1, sha256(1))
    rank.memory.staged = staged
    follow(3, 2)
    wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 3, 2))


def test_no_checkpoint_stays_on_the_device_beside_the_running_one(rank):
    for version in (1, 2, 3):
        rank.swap(version).result()
        assert on_device(rank.swapper) == 0
    shutil.rmtree(rank.uri(2))
    assert rank.engine.revert("back").result().sha256 == sha256(2)  # staged again from host memory


def test_another_rank_stages_again_what_it_has_read(tmp_path):
    one, _ = swapper(0, 1, None)
    for seed in (1, 2):
        checkpoint.save(tmp_path / f"v{seed}", CONFIG, draft_state(seed))
        assert swap(one, sha256(seed), str(tmp_path / f"v{seed}")) == [(), ("",), (sha256(seed),)]
        assert on_device(one) == 0
    shutil.rmtree(tmp_path / "v1")
    assert ask(one, Command("apply", 1, sha256=sha256(1), version=1)) == (
        f"rank 0: version {sha256(1)[:12]} was not prepared again",
    )
    assert swap(one, sha256(1), str(tmp_path / "v1")) == [(), ("",), (sha256(1),)]


def test_a_swap_that_came_to_nothing_is_let_go_by_the_next(rank):
    rank.pair.other = lambda line: "rank 1: no room" if line == "" else line
    with pytest.raises(SwapError, match="rank 1: no room"):
        rank.swap(1).result()
    assert rank.shown() == (0, sha256(0))
    rank.pair.other = agrees
    rank.swap(2).result()
    assert on_device(rank.swapper) == 0


def test_drafts_are_switched_off_on_all_ranks_or_on_none(rank):
    rank.pair.other = lambda line: "its state could not be built" if line == "" else line
    rank.engine.set_policy(control_share=0.5, max_lookahead=0)
    assert (rank.policy.control_share, rank.policy.is_speculating) == (0.0, True)
    detail = "control share 0.5 and largest lookahead 0: rank 1: its state could not be built"
    assert rank.engine.policy_detail == detail
    rank.pair.other = agrees
    rank.swap(1).result()  # without a control, but a swap
    with pytest.raises(SwapError, match="rank 1: its state could not be built"):
        rank.engine.swap(0, None).result()
    assert rank.policy.is_speculating


def test_drafts_stay_off_when_the_version_that_would_bring_them_back_fails(rank):
    rank.engine.swap(0, None).result()
    assert (rank.shown(), rank.policy.is_speculating) == ((0, ""), False)
    rank.pair.other = lambda line: "rank 1: no room" if line == "" else line
    assert rank.swap(1).exception() is not None
    assert (rank.shown(), rank.policy.is_speculating) == ((0, ""), False)
    rank.pair.other = agrees
    rank.swap(1).result()
    assert (rank.shown(), rank.policy.is_speculating) == ((1, sha256(1)), True)


def test_the_draft_of_the_launch_can_come_back_on_several_ranks(tmp_path):
    checkpoint.save(tmp_path / "ours", CONFIG, draft_state(0))
    half = DraftMemory(FakeRunner(FakeDraftModel(0, 2)))
    half.load(half.staged(draft_state(0)))
    first = launched(half, str(tmp_path / "ours"))
    assert (first.sha256, first.state.keys()) == (sha256(0), draft_state(0).keys())
    assert first.state["lm_head.weight"].shape == draft_state(0)["lm_head.weight"].shape
    assert launched(half, "org/somebody-elses").sha256 != sha256(0)  # known by what this rank holds of it
