"""Servers launched otherwise: with trees, with requests that are retracted all the time, with several tokenizers."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading

import pytest
import torch

from aurora_web.registry.launch import dtype_of
from tests.bench.ring import wait_for
from tests.sglang.conftest import PROMPTS, Replica
from tests.sglang.server import DEVICE

NUM = 80


def launched(folder, target, drafts, *options, **environment):
    with Replica(folder, target, drafts.random(0), folder / "state", *options, **environment).running() as found:
        yield found


@pytest.fixture
def planted(tmp_path, target, drafts):
    """Trees of nine nodes, three children at each. SGLang compiles a part of that, which the CPU's stand-in cannot."""
    options = ("--speculative-eagle-topk", "3", "--speculative-num-steps", "3", "--speculative-num-draft-tokens", "9")
    environment = {"TORCHDYNAMO_DISABLE": "1"} if DEVICE == "cpu" else {}
    yield from launched(tmp_path, target, drafts, *options, **environment)


@pytest.fixture
def short_of_memory(tmp_path, target, drafts):
    """A server that retracts requests every few passes, as one does whose cache is full."""
    environment = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "7"}
    yield from launched(tmp_path, target, drafts, **environment)


@pytest.fixture
def divided(tmp_path, target, drafts):
    """A server with two processes that take requests."""
    yield from launched(tmp_path, target, drafts, "--tokenizer-worker-num", "2")


@pytest.fixture
def in_16_bits(tmp_path, target, drafts):
    """A target stored as bfloat16, served with the dtype that the console's launch command names for it."""
    copy = tmp_path / "target"
    shutil.copytree(target, copy)
    config = json.loads((copy / "config.json").read_text()) | {"torch_dtype": "bfloat16"}
    (copy / "config.json").write_text(json.dumps(config))
    yield from launched(tmp_path, copy, drafts, "--dtype", dtype_of(config))


def answers(replica, judge) -> dict[str, dict]:
    """To a prompt of each domain, all at once; each is what the target alone would have written."""
    found = {}

    def ask(domain: str) -> None:
        found[domain] = replica.server.generate(judge.prompt(domain), NUM, extra_key="apart")

    threads = [threading.Thread(target=ask, args=(domain,)) for domain in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for domain, answer in found.items():
        assert answer["output_ids"] == judge.greedy(judge.prompt(domain), NUM)
    return found


def steps_of(replica, judge, drafts, answer, domain):
    """The steps of a trace, which account for every token, with states that are those of transformers."""
    trace, states, final = replica.trace(answer["meta_info"]["id"])
    prompt = judge.prompt(domain)
    assert list(trace.tokens) == prompt + answer["output_ids"]
    place = len(prompt) + 1  # the first token is the prefill's
    for step in trace.steps:
        num = step.num_correct_drafts
        assert step.proposed[:num] == trace.tokens[place : place + num]
        if num < len(step.proposed) and place + num < len(trace.tokens) - 1:
            assert step.proposed[num] != trace.tokens[place + num]
        place += num + 1
    assert place == len(trace.tokens)
    expected, expected_final = judge.states(list(trace.tokens[:-1]), drafts.config.aux_layer_ids)
    torch.testing.assert_close(states.float(), expected[trace.first_state :], rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(final.float(), expected_final[trace.first_state :], rtol=1e-3, atol=2e-3)
    return trace.steps


def counts_agree(report) -> bool:
    """Ours with SGLang's own."""
    names = ("num_verify_steps", "num_accept_tokens")
    return all(report[name] == report[f"engine_{name}"] > 0 for name in names)


def test_of_trees_one_path_a_step_is_recorded_with_the_states_of_its_accepted_nodes(planted, judge, drafts):
    """A random draft's first, then, after a swap, those of one that has learnt a little."""
    for version, draft in ((1, drafts.random(1)), (2, drafts.good())):
        planted.swap(version, draft)
        num_correct = num_proposed = 0
        for domain, answer in answers(planted, judge).items():
            assert answer["meta_info"]["weight_version"] == str(version)
            for step in steps_of(planted, judge, drafts, answer, domain):
                num_correct += step.num_correct_drafts
                num_proposed += len(step.proposed)
                assert 1 <= len(step.proposed) <= 3
        assert num_correct < num_proposed
    assert num_correct > 0
    assert planted.observed()["capture_state"] == "working"


def test_retracted_requests_leave_whole_traces(short_of_memory, judge, drafts):
    """What SGLang reads again gives a token, which is of no verify step: it is recorded as a step without drafts."""
    num_plain = 0
    for domain, answer in answers(short_of_memory, judge).items():
        steps = steps_of(short_of_memory, judge, drafts, answer, domain)
        num_plain += sum(not step.proposed for step in steps)
    assert "Testing retraction" in short_of_memory.server.log()
    assert num_plain > 0
    left = ("num_running", "queue_bytes")  # the last segment is on disk
    wait_for("nothing left", lambda: [short_of_memory.observed()[name] for name in left] == [0, 0], 60)
    report = short_of_memory.observed()
    assert (report["capture_state"], report["num_dropped_traces"]) == ("working", 0)
    wait_for("equal counts", lambda: counts_agree(short_of_memory.observed()), 60)


def test_several_tokenizers_are_told_as_what_breaks_capture_and_swaps_go_on(divided, judge, drafts):
    report = divided.observed()
    assert report["capture_state"] == "broken"
    assert report["capture_detail"].startswith("--tokenizer-worker-num 2: SGLang loads no plugin in these processes")
    divided.swap(1, drafts.random(1))
    answers(divided, judge)
    assert divided.traces() == {}


def test_a_bfloat16_target_is_served_with_drafts_of_32_bits(in_16_bits, judge, drafts):
    """Each swap is proved by what is in memory, there of 16 bits, and a draft that has learnt helps."""
    lengths = []
    for version, draft in ((1, drafts.random(1)), (2, drafts.good())):
        report = in_16_bits.swap(version, draft)
        assert report["sha256"] == hashlib.sha256((draft / "model.safetensors").read_bytes()).hexdigest()
        answer = in_16_bits.server.generate(judge.prompt("arithmetic"), NUM)
        trace, states, _ = in_16_bits.trace(answer["meta_info"]["id"])
        assert len(states) == len(trace.tokens) - 1 - trace.first_state
        lengths.append(1 + sum(step.num_correct_drafts for step in trace.steps) / len(trace.steps))
    assert lengths[1] > lengths[0]
    report = in_16_bits.observed()
    assert (report["capture_state"], report["capture_detail"]) == ("working", "")
