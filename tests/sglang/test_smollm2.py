"""The default real LLM behind a real SGLang server: a draft with a vocabulary of its own, text, states, a swap."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from speculators import checkpoint
from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft
from tests.bench.ring import wait_for
from tests.sglang.conftest import Judge, Replica
from training_worker import vocabulary

NUM = 12
MESSAGE = "Write one sentence about the sea."


@pytest.fixture(scope="module")
def smollm2() -> Path:
    folder = Path(os.environ.get("AURORA_TEST_MODEL", ""))
    if not (folder / "config.json").is_file():
        pytest.fail(f"AURORA_TEST_MODEL={str(folder)!r} has no config.json: run `make test-sglang`, which prepares it")
    return folder


@pytest.fixture(scope="module")
def teacher(smollm2) -> Judge:
    return Judge(smollm2)


@pytest.fixture(scope="module")
def prompt(teacher) -> list[int]:
    text = teacher.tokenizer.apply_chat_template(
        [{"role": "user", "content": MESSAGE}], tokenize=False, add_generation_prompt=True
    )
    return teacher.tokenizer.encode(text, add_special_tokens=False)


def first_vocabulary(smollm2: Path) -> torch.Tensor:
    target = json.loads((smollm2 / "config.json").read_text())
    return vocabulary.choose(smollm2, target, DraftConfig.for_target(target).draft_vocab_size)


def random_draft(smollm2: Path, folder: Path, seed: int, ids: torch.Tensor | None = None) -> Path:
    """A day-0 draft as the trainer makes it, or one that proposes other tokens."""
    config = DraftConfig.for_target(json.loads((smollm2 / "config.json").read_text()))
    draft = Eagle3Draft(config, seed)
    draft.take_vocabulary(first_vocabulary(smollm2) if ids is None else ids)
    checkpoint.save(folder / f"seed-{seed}", config, draft.state_dict())
    return folder / f"seed-{seed}"


@pytest.fixture(scope="module")
def replica(tmp_path_factory, smollm2):
    folder = tmp_path_factory.mktemp("smollm2")
    with Replica(folder, smollm2, random_draft(smollm2, folder, 0), folder / "state").running(300) as found:
        yield found


def test_text_and_states_equal_transformers(replica, teacher, prompt):
    """fp32 on both sides; float16 keeps 11 bits of a state: one unit in the last place of the largest is allowed."""
    answer = replica.server.generate(prompt, NUM)
    assert answer["output_ids"] == teacher.greedy(prompt, NUM)
    trace, states, final = replica.trace(answer["meta_info"]["id"])
    assert list(trace.tokens) == prompt + answer["output_ids"]
    layers = DraftConfig.from_hf(json.loads((replica.server.draft / "config.json").read_text())).aux_layer_ids
    expected, expected_final = teacher.states(list(trace.tokens[:-1]), layers)
    for found, wanted in ((states, expected), (final, expected_final)):
        torch.testing.assert_close(found.float(), wanted, rtol=2e-3, atol=2e-3)


def test_a_swap_is_proved_and_changes_no_text(replica, teacher, prompt, smollm2, tmp_path):
    before = wait_for("the target's fingerprint", lambda: replica.observed()["target_sha256"], 60)
    report = replica.swap(2, random_draft(smollm2, tmp_path, 1))
    assert report["sha256"] == replica.console.console.desired["sha256"]
    answer = replica.server.generate(prompt, NUM)
    assert answer["output_ids"] == teacher.greedy(prompt, NUM)
    assert answer["meta_info"]["weight_version"] == "2"
    assert wait_for("the target's, read again", lambda: replica.observed()["target_sha256"], 60) == before
    assert replica.observed()["capture_state"] == "working"


def test_a_version_with_another_vocabulary_proposes_from_it_and_the_way_back_too(
    replica, teacher, prompt, smollm2, tmp_path
):
    first = first_vocabulary(smollm2)
    others = torch.ones(len(teacher.tokenizer), dtype=torch.bool).index_fill_(0, first, False).nonzero().flatten()
    other = others[: len(first)]
    for version, ids in ((3, other), (4, first)):
        replica.swap(version, random_draft(smollm2, tmp_path, version, ids))
        answer = replica.server.generate(prompt, NUM)
        assert answer["output_ids"] == teacher.greedy(prompt, NUM)
        trace, _, _ = replica.trace(answer["meta_info"]["id"])
        proposed = {token for step in trace.steps for token in step.proposed}
        assert proposed and proposed <= set(ids.tolist())
    assert replica.observed()["capture_state"] == "working"
