"""Weights in SGLang's layout, and the agreement of ranks: one rank in process, two over a real gloo group."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as processes

from serving.engine.api import SwapError
from serving.sglang_backend import engine as engine_module
from serving.sglang_backend import roll_call, weights
from serving.sglang_backend.engine import SglangEngine
from serving.sglang_backend.ranks import NOT_YET, Answer, Command, CpuGroup, Prepared, RankSwapper
from serving.sglang_backend.roll_call import RollCall
from serving.sglang_backend.weights import DraftMemory, TargetWatch, sampled_places, target_fingerprint
from speculators import checkpoint
from speculators.checkpoint import CheckpointError
from tests.bench.ring import wait_for
from tests.unit.serving.sglang_backend.fakes import CONFIG, FakeDraftModel, FakeRunner, draft_state


def memory(rank: int = 0, size: int = 1, **more) -> DraftMemory:
    found = DraftMemory(FakeRunner(FakeDraftModel(rank, size, **more)))
    found.load(found.staged(draft_state(0)))
    return found


def test_the_digest_of_memory_equals_the_files(tmp_path):
    sha256 = checkpoint.save(tmp_path / "one", CONFIG, draft_state(0))
    found = memory()
    assert found.digest(draft_state(0), sha256) == sha256
    assert found.runner.calls == ["begin", "end False"]
    found.model.model.fc.weight.data[0, 0] += 1e-6
    assert found.digest(draft_state(0), sha256) != sha256


def test_in_another_precision_every_element_is_compared():
    found = memory(dtype=torch.bfloat16)
    assert found.digest(draft_state(0), "file") == "file"
    found.model.model.layers[0].self_attn.qkv_proj.weight.data[-1, 0] += 0.5
    assert found.digest(draft_state(0), "file") != "file"


@pytest.mark.parametrize("size", [2, 4])
def test_every_rank_holds_its_part(size):
    """With 4 ranks the two key-value heads are shared by two ranks each."""
    for rank in range(size):
        found = memory(rank, size)
        assert found.holds(draft_state(0)) and not found.holds(draft_state(1))
        assert found.digest(draft_state(0), "file") == "file"


def test_a_payload_never_has_what_must_not_be_written():
    names = {name for name, _ in memory().staged({**draft_state(0)})}
    assert not names & {"t2d", "embed_tokens.weight"}
    assert {"fc.weight", "d2t"} <= names


def proposing(ids: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """A checkpoint whose draft proposes these of 64 tokens."""
    t2d = torch.zeros(64, dtype=torch.bool).index_fill_(0, ids, True)
    return {**draft_state(seed), "d2t": ids - torch.arange(32), "t2d": t2d}


def test_another_vocabulary_is_written_where_sglang_maps_proposals():
    even, odd = torch.arange(32) * 2, torch.arange(32) * 2 + 1
    model = FakeDraftModel()
    model.config.vocab_size, model.hot_token_id = 64, even.clone()
    worker = SimpleNamespace(hot_token_id=even.clone())  # SGLang's copy on the draft's device
    found, mapping = DraftMemory(FakeRunner(model), worker), worker.hot_token_id
    found.load(found.staged(proposing(even, 0)))
    assert found.digest(proposing(even, 0), "") == checkpoint.state_digest(proposing(even, 0))
    found.check(proposing(odd, 1))
    found.load(found.staged(proposing(odd, 1)))
    assert worker.hot_token_id is mapping and torch.equal(mapping, odd)  # graphs read there
    assert found.holds(proposing(odd, 1)) and not found.holds(proposing(even, 1))
    assert found.digest(proposing(odd, 1), "") == checkpoint.state_digest(proposing(odd, 1))
    mapping[0] += 1
    assert found.digest(proposing(odd, 1), "") != checkpoint.state_digest(proposing(odd, 1))


def test_a_checkpoint_of_another_lineage_is_refused():
    found = memory()
    with pytest.raises(CheckpointError, match="tensors differ"):
        found.check({**draft_state(1), "embed_tokens.weight": torch.zeros(32, 8)})
    with pytest.raises(CheckpointError, match=r"norm\.weight has shape"):
        found.check({**draft_state(1), "norm.weight": torch.zeros(9)})
    shifted = {**draft_state(1), "d2t": torch.ones(32, dtype=torch.int64)}
    with pytest.raises(CheckpointError, match="d2t differs"):
        found.check(shifted)
    found.check(draft_state(1))


def test_the_targets_fingerprint_sees_a_changed_value():
    model = torch.nn.Linear(40, 300)
    before = target_fingerprint(model)
    assert target_fingerprint(model) == before
    model.weight.data[3, 3] += 1e-4
    assert target_fingerprint(model) != before


@pytest.mark.parametrize("num", [4097, 2**24 + 1, 49152 * 576, 151936 * 4096])
def test_a_sample_of_a_large_tensor_goes_from_its_first_value_to_its_last(num):
    places = sampled_places(num)
    assert (int(places[0]), int(places[-1]), len(places)) == (0, num - 1, 4096)
    steps = places.diff()
    assert int(steps.max()) - int(steps.min()) <= 1


def test_the_fingerprint_of_a_large_target_is_of_a_sample(monkeypatch):
    monkeypatch.setattr(weights, "FULL_FINGERPRINT_BYTES", 0)
    model = torch.nn.Linear(40, 300)
    before = target_fingerprint(model)
    model.weight.data[-1, -1] += 1e-4  # the last value is one of them
    assert target_fingerprint(model) != before


def test_the_target_is_looked_at_again_when_asked():
    model = torch.nn.Linear(40, 300)
    watch = TargetWatch(model)
    assert watch.sha256 == target_fingerprint(model)
    model.weight.data[3, 3] += 1e-4
    assert watch.sha256 != target_fingerprint(model)
    for _ in range(3):
        watch.look()
    assert not watch.is_settled
    wait_for("the second look", lambda: watch.is_settled, 60)
    assert watch.sha256 == target_fingerprint(model)


def test_a_target_that_cannot_be_read_any_more_is_not_measured(monkeypatch):
    watch = TargetWatch(torch.nn.Linear(4, 4))
    first = watch.sha256
    monkeypatch.setattr(watch, "_model", None)
    watch.look()
    wait_for("the look that fails", lambda: watch.is_settled, 60)
    assert watch.sha256 == ""
    monkeypatch.undo()
    watch.look()
    wait_for("the look after it", lambda: watch.is_settled, 60)
    assert watch.sha256 == first


def test_a_rank_tells_of_its_target_only_when_it_has_looked_again(tmp_path):
    sha256 = checkpoint.save(tmp_path / "two", CONFIG, draft_state(1))
    one, _ = swapper(0, 1, None)
    assert ask(one, Command("target", 1)) == ("",)  # cannot be read
    model = torch.nn.Linear(4, 4)
    one.target = TargetWatch(model)
    before = ask(one, Command("target", 2))
    model.weight.data[0, 0] += 1.0
    assert ask(one, Command("target", 3)) == before
    swap(one, sha256, str(tmp_path / "two"))
    assert ask(one, Command("target", 4)) == (target_fingerprint(model),) != before


def swapper(rank: int, size: int, group) -> tuple[RankSwapper, list[Command]]:
    applied: list[Command] = []
    return RankSwapper(memory(rank, size), CpuGroup(group, size), applied.append, lambda command: None), applied


def ask(one: RankSwapper, command: Command) -> tuple[str, ...]:
    """As rank 0 does: again, while a rank says that it is not ready. All ranks hear the same, so all ask alike."""
    for _ in range(200):
        one.handle(command)
        lines = one.answers.get(timeout=60).lines
        if NOT_YET not in lines:
            return lines
        time.sleep(0.05)
    raise AssertionError(f"{command} was never ready")


def swap(one: RankSwapper, sha256: str, uri: str) -> list[tuple[str, ...]]:
    return [
        ask(one, Command("prepare", 1, sha256=sha256, uri=uri)),
        ask(one, Command("apply", 2, sha256=sha256, version=2)),
        ask(one, Command("prove", 3)),
    ]


def test_one_rank_swaps_and_proves(tmp_path):
    sha256 = checkpoint.save(tmp_path / "two", CONFIG, draft_state(1))
    one, applied = swapper(0, 1, None)
    assert swap(one, sha256, str(tmp_path / "two")) == [(), ("",), (sha256,)]
    assert one.memory.holds(draft_state(1))
    assert [command.version for command in applied] == [2]


def test_weights_that_cannot_be_read_change_nothing(tmp_path):
    one, applied = swapper(0, 1, None)
    _, (said,), (proof,) = swap(one, "0" * 64, str(tmp_path / "gone"))
    assert "CheckpointError" in said and proof == "no proof: rank 0 has applied nothing"
    assert one.memory.holds(draft_state(0)) and applied == []


def test_a_file_that_comes_late_is_read_at_the_second_try(tmp_path):
    one, _ = swapper(0, 1, None)
    directory = tmp_path / "late"
    sha256 = checkpoint.save(tmp_path / "elsewhere", CONFIG, draft_state(1))
    assert "CheckpointError" in swap(one, sha256, str(directory))[1][0]
    (tmp_path / "elsewhere").rename(directory)
    assert swap(one, sha256, str(directory)) == [(), ("",), (sha256,)]


def test_the_scheduler_does_not_wait_for_a_rank_that_reads(tmp_path):
    one, applied = swapper(0, 1, None)
    slow: Future[Prepared] = Future()
    one._keep("slow", slow)
    one.handle(Command("apply", 1, sha256="slow", version=2))  # would wait for ever: nobody reads on
    assert one.answers.get(timeout=60).lines == (NOT_YET,) and applied == []
    slow.set_result(Prepared(draft_state(1), one.memory.staged(draft_state(1))))
    assert ask(one, Command("apply", 2, sha256="slow", version=2)) == ("",)
    assert one.memory.holds(draft_state(1))


def test_a_copy_that_fails_on_a_rank_leaves_it_without_a_proof(tmp_path):
    """Even where the rank proved the same weights before."""
    sha256 = checkpoint.save(tmp_path / "two", CONFIG, draft_state(1))
    one, applied = swapper(0, 1, None)
    swap(one, sha256, str(tmp_path / "two"))

    def no_stream():
        raise AttributeError("forward_stream_ctx")

    ask(one, Command("prepare", 4, sha256=sha256, uri=str(tmp_path / "two")))
    one._prepared[sha256].result(60)
    one.between_steps = no_stream
    with pytest.raises(AttributeError):
        one.handle(Command("apply", 4, sha256=sha256, version=3))
    assert [command.version for command in applied] == [2, 3]  # the other ranks have copied: the prefixes are alike
    assert one.answers.get(timeout=60).lines == ()  # nobody waits for it
    assert ask(one, Command("prove", 5)) == ("no proof: the copy failed: AttributeError: forward_stream_ctx",)


class Swapper:
    """Answers every command at once, and remembers it."""

    def __init__(self) -> None:
        self.answers: SimpleQueue[Answer] = SimpleQueue()


def engine_with(roll: RollCall) -> SglangEngine:
    class Outbox(deque):
        def append(self, command):
            super().append(command)
            found.swapper.answers.put(Answer(command.ticket, ("sha",) * roll.size))

    found = SglangEngine.__new__(SglangEngine)
    found.swapper, found.roll, found.outbox, found._ticket, found._applying = Swapper(), roll, Outbox(), 0, {}
    found._no_policy, found.no_control, found.num_drafts = "", engine_module.NO_CONTROL, 4
    return found


@pytest.mark.parametrize("policy", [None, SimpleNamespace(is_available=False)])
def test_what_a_server_without_a_control_does_not_obey_is_said(policy):
    engine = engine_with(RollCall())
    engine.policy, engine._share, engine._max_lookahead = policy, 0.02, 4
    assert engine.policy_detail.startswith("control share 0.02: this server cannot decode without speculation")
    engine._max_lookahead = 0
    assert engine.policy_detail.startswith("control share 0.02 and largest lookahead 0: ")
    engine._share, engine._max_lookahead = 0.0, 4
    assert engine.policy_detail == ""
    engine._share, engine.no_control = 0.02, "adapters"
    assert engine.policy_detail == "control share 0.02: adapters"
    engine.policy = SimpleNamespace(is_available=True)
    assert engine.policy_detail == ""


@pytest.mark.parametrize(
    ("wanted", "said"), [(None, ""), (0, ""), (4, ""), (6, ""), (2, "largest lookahead 2: the server drafts up to 4 ")]
)
def test_a_largest_lookahead_below_what_the_server_was_launched_with_is_said(wanted, said):
    engine = engine_with(RollCall())
    engine.policy, engine._share, engine._max_lookahead = SimpleNamespace(is_available=True), 0.02, wanted
    assert engine.policy_detail.startswith(said)
    assert bool(engine.policy_detail) == bool(said)


def test_both_are_said_where_neither_holds():
    engine = engine_with(RollCall())
    engine.policy, engine._share, engine._max_lookahead = None, 0.02, 2
    control, lookahead = engine.policy_detail.split("; largest ")
    assert control.startswith("control share 0.02: ")
    assert lookahead.startswith("lookahead 2: ")


def test_nothing_is_sent_while_a_rank_runs_without_aurora(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 2)
    mine, other = RollCall(store, 0, 2), RollCall(store, 1, 2)
    mine.say()
    engine = engine_with(mine)
    other.say("AURORA_TARGET_SLUG='Wrong!': must be a name")
    with pytest.raises(SwapError, match=r"rank 1 runs without Aurora: AURORA_TARGET_SLUG='Wrong!'"):
        engine._command("prepare")
    assert not engine.outbox
    other.say()
    assert engine._command("prepare").lines == ("sha", "sha")


def test_a_rank_that_says_nothing_is_waited_for_and_then_named(tmp_path, monkeypatch):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 2)
    mine, other = RollCall(store, 0, 2), RollCall(store, 1, 2)
    mine.say()
    engine = engine_with(mine)
    late = threading.Timer(0.2, other.say)
    late.start()
    assert engine._command("prepare").lines == ("sha", "sha")
    silent = engine_with(RollCall(torch.distributed.FileStore(str(tmp_path / "silent"), 2), 0, 2))
    silent.roll.say()
    monkeypatch.setattr(engine_module, "READY_SECONDS", 0.1)
    with pytest.raises(SwapError, match="rank 1 runs without Aurora: it has said nothing"):
        silent._command("prepare")
    assert not silent.outbox


def answers_of(*ranks: RollCall, most_seconds: float = 60.0) -> list[bool]:
    """What each of them is told when they ask at the same time whether all agree."""
    with ThreadPoolExecutor(len(ranks)) as together:
        return list(together.map(lambda rank: rank.agree(most_seconds), ranks))


def test_ranks_agree_when_all_of_them_ask_and_one_that_comes_later_hears_the_same():
    assert RollCall().agree(), "alone"
    store = torch.distributed.HashStore()
    ranks = [RollCall(store, rank, 3) for rank in range(3)]
    assert answers_of(*ranks) == [True] * 3
    assert ranks[2].agree(0.0)


def test_ranks_do_not_agree_beside_one_with_a_problem_or_one_that_never_asks():
    store = torch.distributed.HashStore()
    wrong = RollCall(store, 2, 3)
    wrong.say("AURORA_TARGET_SLUG='Wrong!': must be a name")
    assert answers_of(RollCall(store, 0, 3), RollCall(store, 1, 3)) == [False] * 2
    store = torch.distributed.HashStore()
    late = RollCall(store, 2, 3)
    assert answers_of(RollCall(store, 0, 3), RollCall(store, 1, 3), most_seconds=0.1) == [False] * 2
    assert not late.agree(), "the others have gone on without it"


def _rank(rank: int, store: str, uris: tuple[str, str], sha256: str, results) -> None:
    """One of two ranks; rank 1 may be sent to another directory, where nothing is."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    roll = roll_call.of_this_process()
    roll.say("no room" if rank else "")
    one, applied = swapper(rank, 2, torch.distributed.group.WORLD)
    one.target = TargetWatch(torch.nn.Linear(4, 2 + rank))
    before = ask(one, Command("target", 0))
    lines = swap(one, sha256, uris[rank])
    assert roll.lines() == ("", "no room")
    is_untouched = ask(one, Command("target", 4)) == before and len(set(before)) == 2
    results.put((rank, lines[1], lines[2] if applied else (), one.memory.holds(draft_state(1)), is_untouched))
    torch.distributed.barrier()  # rank 0 holds the store of both
    os._exit(0)  # gloo's threads have aborted the interpreter's orderly end once; that end is not what is tested


def _run_two(store: Path, uris: tuple[str, str], sha256: str) -> dict[int, tuple]:
    context = processes.get_context("spawn")
    results = context.SimpleQueue()
    workers = [context.Process(target=_rank, args=(rank, str(store), uris, sha256, results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    return {found[0]: found[1:] for found in (results.get(), results.get())}


def test_two_ranks_swap_together_or_not_at_all(tmp_path: Path):
    uri = str(tmp_path / "two")
    sha256 = checkpoint.save(tmp_path / "two", CONFIG, draft_state(1))
    together = _run_two(tmp_path / "store-together", (uri, uri), sha256)
    assert together == dict.fromkeys(range(2), (("", ""), (sha256, sha256), True, True))
    apart = _run_two(tmp_path / "store-apart", (uri, str(tmp_path / "gone")), sha256)
    for rank in range(2):
        lines, _, has_new, _ = apart[rank]
        assert lines[0] == "" and "rank 1" in lines[1]
        assert not has_new
