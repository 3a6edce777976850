"""The plugin's engine over one real rank, and a second one that says what a test has it say."""

from __future__ import annotations

import queue
import shutil
import threading

import pytest
import torch

from serving.engine.api import SwapError
from serving.sglang_backend import engine as engine_module
from serving.sglang_backend.engine import launched
from serving.sglang_backend.ranks import Command, RankSwapper
from serving.sglang_backend.weights import DraftMemory
from speculators import checkpoint
from tests.unit.serving.fakes import wait_until
from tests.unit.serving.sglang_backend.fakes import CONFIG, FakeDraftModel, FakeRunner, draft_state
from tests.unit.serving.sglang_backend.one_rank import agrees, sha256
from tests.unit.serving.sglang_backend.test_ranks import ask, swap, swapper
from tests.unit.serving.sglang_backend.test_sidecar import told

WRONG = "f" * 64


def on_device(one: RankSwapper) -> int:
    """Checkpoints that are staged."""
    return sum(future.result().payload is not None for future in one._prepared.values())


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


def test_a_verdict_on_a_version_that_a_swap_has_replaced_reverts_nothing(rank, monkeypatch):
    """It waits for that swap, and would take back what it is not about."""
    has_asked, is_told = threading.Event(), queue.Queue()
    monkeypatch.setattr(rank.engine, "_target_on_all_ranks", lambda: has_asked.set() or is_told.get(timeout=60))
    for version in (1, 2):
        rank.swap(version).result()
    assert has_asked.wait(60)  # nobody else talks to the ranks
    rank.is_turning.clear()
    outcome = []
    swapping = threading.Thread(target=lambda: outcome.append(rank.swap(3).result()))
    swapping.start()
    wait_until(lambda: any(command.kind == "prepare" for command in rank.engine.outbox))
    rank.engine.collapsed("collapsed")
    rank.is_turning.set()
    swapping.join()
    for thread in [each for each in threading.enumerate() if each.name == "revert"]:
        thread.join()
    assert (outcome[0].version, rank.shown(), rank.engine.stats().previous) == (3, (3, sha256(3)), 2)
    assert rank.memory.holds(draft_state(3))
    is_told.put("")


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
