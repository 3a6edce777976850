"""The target's final states in the order of SGLang's start: graphs are captured, then come eager passes and replays."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from serving.sglang_backend import replica as replica_module
from serving.sglang_backend.assembler import NO_FINAL
from serving.sglang_backend.copies import Copier
from serving.sglang_backend.final_states import FinalStates, is_capturing, room_for_graphs
from serving.sglang_backend.plugin import Plugin
from serving.sglang_backend.replica import Replica
from tests.unit.serving.sglang_backend.fakes import FakeGraph, request, verify_step
from tests.unit.serving.sglang_backend.test_capture import Scene

WIDTH, NODES = 2, 3
RID = "a" * 32


class Server:
    """The order of SGLang's start: target and draft are built, graphs captured, then the scheduler's first turn."""

    def __init__(self, sizes: tuple[int, ...] = (2, 1), room: int = 2 * NODES) -> None:
        self.processor = object()
        final = FinalStates(torch.full((room, WIDTH), -7.0) if room else None, FakeGraph.is_capturing)
        self.plugin = Plugin()
        self.plugin.replica = SimpleNamespace(capture=None, final=final, logits_processor=self.processor)
        self.inputs: dict[int, torch.Tensor] = {}
        self.graphs: dict[int, FakeGraph] = {}
        for size in sizes:
            self.capture_graph(size)
        self.scene = Scene(final=final)
        self.plugin.replica.capture = self.scene.capture

    def capture_graph(self, size: int) -> None:
        """Two passes to warm up, then the one that is captured, from and into memory that stays."""
        self.inputs[size] = torch.full((size * NODES, WIDTH), -1.0)
        for _ in range(2):
            self.logits(self.inputs[size] + 1)
        with FakeGraph() as self.graphs[size]:
            self.logits(self.inputs[size])

    def logits(self, hidden: torch.Tensor) -> None:
        self.plugin.before_logits(self.processor, None, hidden)

    def verify(self, requests, starts, tokens, accept_lens, *, size: int | None = None) -> None:
        """A step; by the graph of that size, padded, or eagerly. Final states hold 100 * position + 1."""
        batch, info, result = verify_step(requests, starts, tokens, accept_lens)
        final = result.logits_output.hidden_states[:, :WIDTH] + 1
        capture = self.scene.capture
        capture.step_begins()
        if size is None:
            self.logits(final)
        else:
            self.inputs[size].fill_(-3.0)[: len(final)] = final
            self.graphs[size].replay()
        capture.verified(batch, info, result)
        capture.step_ends()

    def answer(self, *sizes: int | None) -> torch.Tensor | None:
        """Final states of a request: a prompt of three, and a step of one token for each of ``sizes``."""
        one = request(RID, [5, 6, 7])
        self.scene.prefill([one], [0], [3], self.logits)
        for i, size in enumerate(sizes):
            self.verify([one], [3 + i], [[10 + i, 98, 99]], [1], size=size)
        self.scene.end(request(RID, [5, 6, 7], [10 + i for i in range(len(sizes) + 1)], reason="length"))
        [(finished, is_trace)] = self.scene.finished
        assert is_trace == (finished.final is not None)
        return finished.final


def positions(num: int) -> list[float]:
    return [100.0 * i + 1 for i in range(num)]


def test_replays_fill_what_the_first_eager_pass_has_not_seen():
    server = Server()
    assert server.answer(1, 2, 1)[:, 0].tolist() == positions(6)
    assert server.plugin.guard.num_failures == 0


def test_eager_passes_between_replays_and_larger_than_the_buffer_leave_it_alone():
    server = Server()
    buffer = server.plugin.replica.final._buffer
    for _ in range(2):  # a long prompt of somebody else's
        server.scene.prefill([request("b" * 32, [1] * 50)], [0], [50], server.logits)
    assert server.answer(1, None, 2)[:, 0].tolist() == positions(6)
    assert server.plugin.replica.final._buffer is buffer


def test_of_a_graph_without_our_copy_nothing_is_kept_and_the_console_hears_of_it():
    server = Server()
    server.graphs[2] = FakeGraph()
    assert server.answer(1, 2, 1) is None
    assert server.scene.problems == [NO_FINAL]
    assert server.scene.assembler.num_dropped == 1


@pytest.mark.parametrize("room", [0, NODES])
def test_graphs_that_the_buffer_cannot_hold_leave_nothing(room):
    server = Server(room=room)
    assert server.answer(2) is None
    assert server.scene.problems == [NO_FINAL]


def test_a_graph_that_is_captured_again_writes_into_the_same_buffer():
    server = Server()
    server.capture_graph(1)
    assert server.answer(1, 1)[:, 0].tolist() == positions(5)


def test_the_rows_of_a_replay_are_handed_out_once():
    server = Server()
    server.graphs[1].replay()
    final = server.plugin.replica.final
    assert final.eager(NODES) is None
    assert [int(final.replayed(NODES)[1]) for _ in range(2)] == [NODES, 0]


def test_what_an_eager_pass_has_left_is_not_taken_for_that_of_a_replay():
    server = Server()
    server.logits(torch.full((50, WIDTH), 9.0))  # nobody came for it
    one = request(RID, [5, 6, 7])
    server.scene.capture._origin(one)
    server.verify([one], [3], [[10, 98, 99]], [1], size=1)
    [step] = [event for event in server.scene.queue._events if hasattr(event, "is_replayed")]
    assert step.is_replayed
    assert step.final.tensor[:, 0].tolist() == [301.0, 401.0, 501.0]


def test_a_capture_in_progress_is_not_taken_for_the_hook_at_work():
    assert "final" not in Server().plugin.guard.fired


def test_the_warm_up_of_a_capture_is_not_kept():
    assert Server().plugin.replica.final.eager(1) is None


def test_on_a_cpu_nothing_is_ever_captured():
    assert not is_capturing(torch.zeros(1))
    assert Copier(torch.device("cpu")).integers(torch.zeros(1)).is_ready


@pytest.fixture
def graphs(monkeypatch):
    """SGLang's settings of its CUDA graphs, in a module of that name."""
    found = SimpleNamespace(backend="full", bs=[1, 2, 8])
    context = ModuleType("sglang.srt.runtime_context")
    config = SimpleNamespace(decode=found)
    context.get_exec = lambda: SimpleNamespace(graph=SimpleNamespace(cuda_graph_config=config))
    for name in ("sglang", "sglang.srt"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, context.__name__, context)
    return found


WORKER = SimpleNamespace(
    speculative_num_draft_tokens=5,
    target_worker=SimpleNamespace(
        model_config=SimpleNamespace(hidden_size=WIDTH, dtype=torch.bfloat16),
        model_runner=SimpleNamespace(device="cpu"),
    ),
)


def test_there_is_room_for_the_largest_graph_of_any_number_of_draft_steps(graphs):
    assert room_for_graphs(WORKER, []).shape == (8 * 5, WIDTH)
    found = room_for_graphs(WORKER, [0, 4, 6])
    assert (found.shape, found.dtype) == ((8 * 7, WIDTH), torch.bfloat16)
    assert not found.any()
    graphs.backend = "disabled"
    assert room_for_graphs(WORKER, [0]) is None
    graphs.backend, graphs.bs = "full", None
    assert room_for_graphs(WORKER, [0]) is None


@pytest.mark.parametrize(("rank", "is_wanted", "has_room"), [(0, True, True), (1, True, False), (0, False, False)])
def test_only_who_captures_makes_room(graphs, rank, is_wanted, has_room):
    one = object.__new__(Replica)
    one.memory, one.config = SimpleNamespace(rank=rank), SimpleNamespace(is_capture_wanted=is_wanted)
    one.worker, one.policy = WORKER, SimpleNamespace(candidate_steps=[0, 4])
    assert (one._room_for_graphs() is not None) == has_room


def test_without_room_the_server_starts_all_the_same(graphs, monkeypatch, caplog):
    def full(worker, steps):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(replica_module, "room_for_graphs", full)
    one = object.__new__(Replica)
    one.memory, one.config = SimpleNamespace(rank=0), SimpleNamespace(is_capture_wanted=True)
    one.worker, one.policy = WORKER, None
    assert one._room_for_graphs() is None
    assert "out of memory" in caplog.text
