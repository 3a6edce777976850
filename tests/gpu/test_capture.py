"""Capture beside SGLang where it needs a GPU: final states out of CUDA graphs, copies and clocks that never wait."""

from contextlib import contextmanager

import pytest
import torch

from serving.sglang_backend.copies import Copier
from serving.sglang_backend.events import Clock
from serving.sglang_backend.final_states import FinalStates

ROWS, WIDTH = 8, 64


@pytest.fixture
def static(gpu):
    """What a graph reads."""
    return torch.zeros(ROWS, WIDTH, dtype=torch.bfloat16, device=gpu)


@pytest.fixture
def busy(gpu):
    """Gives the stream work for a second or so: who waits for what is put on it then is seen to have waited."""
    return lambda: torch.cuda._sleep(2_000_000_000)


@contextmanager
def no_waiting():
    """torch refuses what makes the host wait, of all that it knows to do so."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def graph_of(work):
    """Warmed up and captured as SGLang does it: two passes on a stream of their own, then the one that is kept."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        work()
    return graph


def test_replays_hand_out_their_own_final_states_whatever_has_run_between(gpu, static):
    final, copier = FinalStates(torch.zeros_like(static)), Copier(gpu)
    graph = graph_of(lambda: final.note_graph(static * 2))
    final.note(torch.full((5000, WIDTH), 7.0, dtype=torch.bfloat16, device=gpu))  # eager: more than there is room for
    assert len(final.eager(5000)) == 5000
    for value in (1.0, 3.0):
        with no_waiting():
            static.fill_(value)
            final.pass_begins()
            graph.replay()
            assert final.eager(ROWS) is None
            rows, num_written = final.replayed(ROWS - 2)
            copied, counted = copier.states(rows), copier.integers(num_written)
            static.fill_(9.0)
            graph.replay()  # the next step overwrites the buffer
        torch.cuda.synchronize()
        assert copied.is_ready and copied.tensor.is_pinned()
        assert copied.tensor.unique().tolist() == [2 * value]
        assert counted.tensor.tolist() == [ROWS]


def test_what_has_been_copied_holds_no_device_memory_whoever_holds_the_copy(gpu, static):
    copier, before = Copier(gpu), torch.cuda.memory_allocated()
    kept = [copier.states(static), copier.states(static.float()), copier.integers(static)]
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
    assert all(copy.is_ready for copy in kept)


def test_a_graph_without_the_copy_or_too_large_for_the_buffer_counts_no_rows(gpu, static):
    final = FinalStates(torch.zeros(ROWS // 2, WIDTH, dtype=torch.bfloat16, device=gpu))
    for graph in (graph_of(lambda: static.add_(1)), graph_of(lambda: final.note_graph(static))):
        graph.replay()
        assert int(final.replayed(ROWS // 2)[1]) == 0


def test_a_clock_measures_on_the_gpu_and_is_asked_without_waiting(gpu, static):
    clock = Clock(gpu)
    for _ in range(4):
        clock.mark()
        static.add_(1)
    torch.cuda.synchronize()
    assert clock.is_ready
    assert 0 <= clock.seconds(with_catching_up=False) <= clock.seconds(with_catching_up=True) < 1


def test_copies_and_clocks_are_queued_behind_work_that_has_not_been_done(gpu, static, busy):
    copier, clock = Copier(gpu), Clock(gpu)
    copier.states(static), copier.integers(static[0].to(torch.int64))  # what is only done the first time
    torch.cuda.synchronize()
    busy()
    static.fill_(5.0)
    with no_waiting():
        for _ in range(4):
            clock.mark()
        copies = copier.states(static), copier.integers(static[0].to(torch.int64))
        assert not clock.is_ready
        assert not any(copied.is_ready for copied in copies)
        static.fill_(9.0)
    torch.cuda.synchronize()
    assert all(copied.is_ready for copied in copies)
    assert [copied.tensor.unique().tolist() for copied in copies] == [[5.0], [5]]
