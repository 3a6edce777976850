"""Checkpoints are durable, immutable, provable by digest, and refuse what an engine would misread in silence."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from speculators import checkpoint
from speculators.checkpoint import CheckpointError
from speculators.draft_config import FIXED, VOCABULARY_TENSORS, DraftConfig, unlike_ours
from speculators.eagle3 import Eagle3Draft

TARGET: dict[str, Any] = {
    "num_hidden_layers": 8, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "max_position_embeddings": 256,
}  # fmt: skip


@pytest.fixture
def draft() -> Eagle3Draft:
    return Eagle3Draft(DraftConfig.for_target(TARGET), seed=3)


def test_names_and_shapes_are_those_that_sglang_and_vllm_load(draft: Eagle3Draft) -> None:
    assert {name: list(t.shape) for name, t in draft.state_dict().items()} == {
        "fc.weight": [32, 96],
        "midlayer.self_attn.q_proj.weight": [32, 64],
        "midlayer.self_attn.k_proj.weight": [16, 64],
        "midlayer.self_attn.v_proj.weight": [16, 64],
        "midlayer.self_attn.o_proj.weight": [32, 32],
        "midlayer.mlp.gate_proj.weight": [48, 32],
        "midlayer.mlp.up_proj.weight": [48, 32],
        "midlayer.mlp.down_proj.weight": [32, 48],
        "midlayer.input_layernorm.weight": [32],
        "midlayer.hidden_norm.weight": [32],
        "midlayer.post_attention_layernorm.weight": [32],
        "norm.weight": [32],
        "lm_head.weight": [64, 32],
        "d2t": [64],
        "t2d": [64],
    }


def test_digest_in_memory_is_the_sha256_of_the_file(tmp_path: Path, draft: Eagle3Draft) -> None:
    sha256 = checkpoint.save(tmp_path / "v1", draft.config, draft.state_dict())
    config, state = checkpoint.load(tmp_path / "v1", expected_sha256=sha256)
    assert config == draft.config
    assert checkpoint.state_digest(state) == sha256
    state["norm.weight"][0] += 1e-3
    assert checkpoint.state_digest(state) != sha256


def test_versions_are_immutable(tmp_path: Path, draft: Eagle3Draft) -> None:
    checkpoint.save(tmp_path / "v1", draft.config, draft.state_dict())
    with pytest.raises(FileExistsError, match="immutable"):
        checkpoint.save(tmp_path / "v1", draft.config, draft.state_dict())


def test_a_flipped_byte_is_refused(tmp_path: Path, draft: Eagle3Draft) -> None:
    sha256 = checkpoint.save(tmp_path / "v1", draft.config, draft.state_dict())
    path = tmp_path / "v1" / checkpoint.WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"expected {sha256}"):
        checkpoint.load(tmp_path / "v1", expected_sha256=sha256)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (
            lambda s: s.update({"embed_tokens.weight": torch.zeros(64, 32)}),
            "unknown tensor embed_tokens.weight",
        ),
        (lambda s: s.pop("fc.weight"), "missing tensor fc.weight"),
        (
            lambda s: s.update({"norm.weight": torch.ones(31)}),
            r"norm.weight has shape \[31\], expected \[32\]",
        ),
        (lambda s: s["fc.weight"].fill_(float("nan")), "fc.weight has values that are not finite"),
        (lambda s: s.update({"d2t": s["d2t"].float()}), "d2t has dtype torch.float32"),
        (lambda s: s["d2t"].fill_(1), "d2t does not give rising target ids below vocab_size"),
    ],
)
def test_silent_traps_in_the_tensors_are_named(tmp_path: Path, draft: Eagle3Draft, damage: Any, named: str) -> None:
    state = {name: tensor.clone() for name, tensor in draft.state_dict().items()}
    damage(state)
    checkpoint.save(tmp_path / "v1", draft.config, state)
    with pytest.raises(CheckpointError, match=named):
        checkpoint.load(tmp_path / "v1")


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("max_position_embeddings", 2048, "max_position_embeddings is 2048, the target's is 256"),
        ("eagle_config", {"eagle_aux_hidden_state_layer_ids": [2, 4, 8]}, "must rise and stay below 8"),
    ],
)
def test_silent_traps_in_the_config_are_named(
    tmp_path: Path, draft: Eagle3Draft, key: str, value: Any, named: str
) -> None:
    checkpoint.save(tmp_path / "v1", draft.config, draft.state_dict())
    assert checkpoint.lint(tmp_path / "v1", TARGET) == []
    path = tmp_path / "v1" / checkpoint.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert named in "; ".join(checkpoint.lint(tmp_path / "v1", TARGET))


# What SGLang 0.5.21 honours of an EAGLE-3 config and our drafts have not (llama_eagle3.py, llama.py).
HONOURED = [
    ({"architectures": ["LlamaForCausalLMEagle"]}, "architectures names LlamaForCausalLMEagle, expected"),
    ({"architectures": None}, "architectures names nothing, expected LlamaForCausalLMEagle3"),
    ({"num_hidden_layers": 2}, "num_hidden_layers is 2, expected 1"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'silu'"),
    ({"norm_output": True}, "norm_output is True, expected False"),
    ({"norm_before_fc": True}, "norm_before_fc is True, expected False"),
    ({"eagle_config": {"norm_before_fc": True}}, "norm_before_fc is True, expected False"),
    ({"eagle_config": {"use_aux_hidden_state": False}}, "use_aux_hidden_state is False, expected True"),
    ({"fc_norm": True}, "fc_norm is True, expected False"),
    ({"use_aux_norm": True}, "use_aux_norm is True, expected False"),
    ({"bias": True}, "bias is True, expected False"),
    ({"attention_bias": True}, "attention_bias is True, expected False"),
    ({"tie_word_embeddings": True}, "tie_word_embeddings is True, expected False"),
    ({"rope_is_neox_style": False}, "rope_is_neox_style is False, expected True"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, expected 1"),
    ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config is {'quant_method': 'fp8'}, expected None"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling: rope_type is 'linear', expected 'default'"),
    ({"rope_scaling": {"rope_type": None, "type": "yarn"}}, "rope_scaling: rope_type is 'yarn', expected 'default'"),
    ({"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters: rope_type is 'llama3', expected 'default'"),
    ({"rope_scaling": {"mrope_section": [1, 2]}}, "rope_scaling: mrope_section is [1, 2], expected None"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5, expected 1"),
    ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn', expected an object with rope_type"),
]


@pytest.mark.parametrize(("changes", "named"), HONOURED)
def test_a_config_of_a_draft_that_computes_otherwise_is_refused(
    draft: Eagle3Draft, changes: dict[str, Any], named: str
) -> None:
    config = draft.config.to_hf()
    [problem] = unlike_ours(config | changes)
    assert named in problem
    with pytest.raises(ValueError, match=r"draft config\.json: ") as caught:
        DraftConfig.from_hf(config | changes)
    assert named in str(caught.value)


def test_what_means_the_same_as_ours_is_taken(draft: Eagle3Draft) -> None:
    config = draft.config.to_hf()
    assert unlike_ours(config) == []
    bare = {key: value for key, value in config.items() if key not in FIXED}
    same = {"norm_output": None, "fc_norm": False, "partial_rotary_factor": 1.0, "quantization_config": {}}
    rope = {"rope_scaling": {"type": "default"}, "rope_parameters": None, "rope_theta": 1e6}
    assert unlike_ours(bare) == unlike_ours(config | same | rope) == []
    assert DraftConfig.from_hf(bare) == draft.config
    assert DraftConfig.from_hf(config | rope).rope_theta == 1e6


def test_a_config_without_rope_theta_has_that_of_transformers() -> None:
    assert DraftConfig.for_target({k: v for k, v in TARGET.items() if k != "rope_theta"}).rope_theta == 10_000.0
    with pytest.raises(ValueError, match="rope_theta is 0, expected a positive number"):
        DraftConfig.for_target(TARGET | {"rope_theta": 0})


def test_a_target_with_too_few_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="num_hidden_layers=6"):
        DraftConfig.for_target(TARGET | {"num_hidden_layers": 6})


def test_a_config_knows_the_tensors_of_its_draft(draft: Eagle3Draft) -> None:
    state = draft.state_dict()
    assert draft.config.tensor_shapes() == {name: tuple(tensor.shape) for name, tensor in state.items()}
    others = {name: str(tensor.dtype) for name, tensor in state.items() if tensor.dtype != torch.float32}
    assert others == VOCABULARY_TENSORS


def test_loading_a_checkpoint_does_not_load_torchs_compiler(tmp_path: Path, draft: Eagle3Draft) -> None:
    """Which takes seconds, in the process that serves: the first swap would wait for it."""
    checkpoint.save(tmp_path / "v1", draft.config, draft.state_dict())
    code = (
        "import sys; from pathlib import Path; from speculators import checkpoint; from speculators.eagle3 import *; "
        "Eagle3Draft.from_state(*checkpoint.load(Path(sys.argv[1]))); print('torch._dynamo' in sys.modules)"
    )
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "v1")]
    done = subprocess.run(command, env=path, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
