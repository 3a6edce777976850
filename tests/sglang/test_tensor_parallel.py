"""One real SGLang server on two tensor-parallel ranks: every rank swaps, or none, and each proves what it holds."""

from __future__ import annotations

import os

import pytest
import torch

from speculators import checkpoint
from tests.bench.ring import wait_for
from tests.sglang.conftest import PROMPTS, Replica
from tests.sglang.server import DEVICE, with_plugin

NUM = 16
SPOILER = """
import os


def activate():
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register("sglang.srt.speculative.eagle_worker_v2.EAGLEWorkerV2.__init__", spoil, HookType.AFTER)


def spoil(result, worker, *given, **named):
    import torch.distributed

    if torch.distributed.get_rank() == 1:
        os.environ["AURORA_TARGET_SLUG"] = "Wrong!"
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory, target, drafts):
    """A server that is well."""
    yield from two_ranks(tmp_path_factory.mktemp("pair"), target, drafts)


@pytest.fixture
def halved(tmp_path, target, drafts):
    """A server on whose second rank Aurora cannot begin."""
    yield from two_ranks(tmp_path, target, drafts, PYTHONPATH=str(with_plugin(tmp_path / "plugin", SPOILER)))


def two_ranks(folder, target, drafts, **environment):
    """Skipped where there are not two cores or two GPUs for it."""
    if (os.cpu_count() if DEVICE == "cpu" else torch.cuda.device_count()) < 2:
        pytest.skip(f"two ranks need two of {DEVICE}")
    environment["SGLANG_CPU_OMP_THREADS_BIND"] = "0|1"
    found = Replica(folder, target, drafts.random(0), folder / "state", "--tp-size", "2", **environment)
    with found.running(300):
        yield found


def test_a_collapse_of_the_first_version_brings_the_launchs_back_on_both_ranks(pair, judge, drafts):
    """Each rank was launched with its part of it, and swaps in the whole."""
    launched = pair.observed()["sha256"]
    assert launched == checkpoint.state_digest(checkpoint.load(drafts.random(0))[1])
    generation = pair.set_desired(9, drafts.random(2), min_accept_length=3.0)
    wait_for("the swap", lambda: pair.observed()["generation"] == generation, 60)
    prompt = judge.prompt("json_tools")
    assert pair.server.generate(prompt, 100)["output_ids"] == judge.greedy(prompt, 100)
    report = wait_for(
        "the revert, proved", lambda: (last := pair.observed())["state"] == "reverted" and last["sha256"] and last, 60
    )
    assert (report["version"], report["sha256"], report["ranks"]) == (0, launched, [launched] * 2)


def test_two_ranks_swap_and_prove_the_same_version(pair, judge, drafts):
    before = wait_for("the target's fingerprint", lambda: pair.observed()["target_sha256"], 60)
    report = pair.swap(1, drafts.random(1))
    assert report["sha256"] == pair.console.console.desired["sha256"]
    assert report["ranks"] == [report["sha256"]] * 2
    for domain in sorted(PROMPTS)[:2]:
        prompt = judge.prompt(domain)
        answer = pair.server.generate(prompt, NUM)
        assert answer["output_ids"] == judge.greedy(prompt, NUM)
        assert answer["meta_info"]["weight_version"] == "1"
    assert wait_for("the target's, read again", lambda: pair.observed()["target_sha256"], 60) == before


def test_states_and_steps_of_two_ranks_are_recorded_once(pair, judge, drafts):
    """Hidden states are whole on every rank; sums over two ranks round otherwise than transformers' do."""
    prompt = judge.prompt("arithmetic")
    answer = pair.server.generate(prompt, NUM, extra_key="apart")
    trace, states, final = pair.trace(answer["meta_info"]["id"])
    assert list(trace.tokens) == prompt + answer["output_ids"]
    assert sum(step.num_correct_drafts + 1 for step in trace.steps) == NUM - 1
    expected, expected_final = judge.states(list(trace.tokens[:-1]), drafts.config.aux_layer_ids)
    torch.testing.assert_close(states.float(), expected, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(final.float(), expected_final, rtol=1e-3, atol=2e-3)


def test_a_corrupt_version_reaches_no_rank(pair, judge, drafts, tmp_path):
    ranks = pair.observed()["ranks"]
    config, state = checkpoint.load(drafts.random(2))
    state["fc.weight"][0, 0] = float("nan")
    checkpoint.save(tmp_path / "broken", config, state)
    report = pair.swap(2, tmp_path / "broken", state="swap_failed")
    assert (report["version"], report["ranks"]) == (1, ranks)
    prompt = judge.prompt("sql")
    assert pair.server.generate(prompt, NUM)["output_ids"] == judge.greedy(prompt, NUM)


def test_a_swap_between_the_steps_of_a_request_changes_no_token(pair, judge, drafts):
    prompt = judge.prompt("json_tools")
    pieces = pair.server.stream(prompt, 40)
    next(pieces)
    report = pair.swap(3, drafts.random(0))
    assert report["ranks"] == [report["sha256"]] * 2
    assert list(pieces)[-1][1] == 40
    assert pair.server.generate(prompt, 40)["output_ids"] == judge.greedy(prompt, 40)


def test_a_rank_without_aurora_refuses_swaps_and_ends_nothing(halved, judge, drafts):
    report = halved.swap(1, drafts.random(1), state="swap_failed")
    assert "rank 1 runs without Aurora: AURORA_TARGET_SLUG='Wrong!'" in report["detail"]
    assert report["version"] == 0
    prompt = judge.prompt("sql")
    assert halved.server.generate(prompt, NUM)["output_ids"] == judge.greedy(prompt, NUM)
    assert "Invalid object" not in halved.server.log()
