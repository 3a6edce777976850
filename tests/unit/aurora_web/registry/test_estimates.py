"""The estimates against the real thing: a draft's parameters, the trainer's tensors, the bytes of a segment."""

import json

import pytest
import torch

from aurora_web.registry import estimates
from aurora_web.registry.checks import Origin, examine
from aurora_web.registry.compatibility import TargetFacts, aux_layer_ids, inspect
from aurora_web.registry.findings import State, Topic
from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft
from speculators.optimiser import Muon
from tests.unit.serving.tiny import CONFIGS, make_target

QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 36, "hidden_size": 4096, "intermediate_size": 12288,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "rope_theta": 1e6,
    "max_position_embeddings": 40960, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip


LARGE = {"vocab_size": 49152}  # a draft proposes a part of so many


@pytest.mark.parametrize("change", [{}, LARGE, {"vocab_size": 16384}, {"vocab_size": 16385}])
@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_draft_s_parameters_are_counted_as_torch_counts_them(kind, change):
    config = CONFIGS[kind]().to_dict() | change
    draft = Eagle3Draft(DraftConfig.for_target(config))
    shape = estimates.DraftShape.of(config)
    assert shape.num_parameters == sum(p.numel() for p in draft.parameters())
    assert tuple(aux_layer_ids(config["num_hidden_layers"])) == draft.config.aux_layer_ids


def test_the_trainer_s_copies_are_those_of_its_optimisers():
    config = CONFIGS["qwen3"]().to_dict()
    draft = Eagle3Draft(DraftConfig.for_target(config))
    inner = [p for n, p in draft.named_parameters() if p.ndim == 2 and n != "lm_head.weight"]
    chosen = {id(p) for p in inner}
    others = [p for p in draft.parameters() if id(p) not in chosen]
    optimisers = [Muon(inner, 0.1), torch.optim.AdamW(others, lr=0.1)]
    for parameter in draft.parameters():
        parameter.grad = torch.ones_like(parameter)
    for optimiser in optimisers:
        optimiser.step()
    moments = sum(
        tensor.numel() for optimiser in optimisers for state in optimiser.state.values()
        for tensor in state.values() if torch.is_tensor(tensor) and tensor.ndim
    )  # fmt: skip
    num_numbers = 3 * sum(p.numel() for p in draft.parameters()) + moments  # weights, gradients, averages
    [part] = [p for p in estimates.memory(TargetFacts.of(config, "x"), "embedded") if p.name == "draft with optimiser"]
    assert part.num_bytes == 4 * num_numbers


def test_a_large_model_by_its_config_alone():
    facts = TargetFacts.of(QWEN3_8B, "qwen3-8b")
    parts = {part.name: part for part in estimates.memory(facts, "sglang")}
    assert parts["target"].gib == pytest.approx(15.26, abs=0.1)  # 8.19 billion parameters in bfloat16
    assert parts["KV cache of one full context"].num_bytes == 2 * 37 * 8 * 128 * 2 * 40960
    found = estimates.bandwidth(facts, 1000)
    assert found.bytes_per_token == 32 * 1024  # docs/design.md, section 6
    assert found.megabytes_per_second == pytest.approx(32.768)


def test_files_on_disk_are_weighed(tmp_path):
    make_target(tmp_path / "half", dtype=torch.bfloat16)
    facts, problems = inspect_all(tmp_path / "half")
    assert problems == []
    on_disk = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert estimates.weight_bytes_of(facts, "sglang")[0] == on_disk
    assert estimates.weight_bytes_of(facts, "embedded")[0] == 2 * on_disk  # the embedded engine computes in float32


def inspect_all(folder):
    facts, problems = inspect(str(folder))
    return facts, [p for p in problems if p.topic not in (Topic.VOCABULARY, Topic.CHAT)]  # without a tokenizer


@pytest.mark.django_db
def test_every_topic_has_a_line_and_estimates_have_a_formula(checkpoint_dir):
    found = examine(Origin(path=str(checkpoint_dir)), tokens_per_second=500).findings
    assert {f.topic for f in found} == set(Topic) - {Topic.SETTINGS}
    assert {f.state for f in found} == {State.OK}
    assert all(f.how for f in found if f.says.startswith("Estimate"))


@pytest.mark.django_db
def test_what_cannot_be_reckoned_is_left_out(checkpoint_dir):
    config = json.loads((checkpoint_dir / "config.json").read_text()) | {"hidden_size": None}
    found = examine(Origin(source="sglang", model_id="acme/x", config=config)).findings
    assert not {Topic.MEMORY, Topic.BANDWIDTH} & {f.topic for f in found}
    refused = [f for f in found if f.state == State.REFUSED]
    assert ["hidden_size is None" in str(f) for f in refused] == [True]
    assert all(f.fix for f in refused)


@pytest.mark.django_db
def test_a_model_larger_than_the_machine_is_a_warning(checkpoint_dir, monkeypatch):
    monkeypatch.setattr("aurora_web.registry.checks.os.sysconf", lambda name: 100)
    [memory] = [f for f in examine(Origin(path=str(checkpoint_dir))).findings if f.topic == Topic.MEMORY]
    assert memory.state == State.WARNING
    assert "serve it with SGLang on another one" in memory.fix
