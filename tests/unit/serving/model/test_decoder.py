"""The decoder against transformers, on tiny random models of each architecture."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from serving.model.attention import Span
from serving.model.decoder import Decoder
from serving.model.weights import Weights
from speculators.target_config import SIZES, ModelConfig
from tests.unit.serving.tiny import CONFIGS, SHAPE, make_target

TOLERANCE = 1e-4


def reference(model, ids):
    with torch.no_grad():
        answer = model(torch.tensor([ids]), output_hidden_states=True)
    return answer.logits[0], [h[0] for h in answer.hidden_states]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_and_states_equal_transformers(tmp_path, kind, dtype):
    model = make_target(tmp_path, kind, dtype=dtype)
    ids = torch.randint(0, 61, (70,), generator=torch.Generator().manual_seed(1)).tolist()
    logits, layers = reference(model, ids)
    decoder = Decoder(tmp_path, (1, 3, 4), num_slots=2, max_len=128)
    states = decoder.forward(torch.tensor(ids), [Span(1, 0, len(ids))])
    got = decoder.logits(states.final)
    assert float(logits.std()) > 0.5  # flat logits would agree by themselves
    assert (got - logits).abs().max() < TOLERANCE * max(1.0, float(logits.abs().max()))
    expected = torch.cat([layers[i + 1] for i in (1, 3, 4)], -1)
    assert (states.features - expected).abs().max() < TOLERANCE * float(expected.abs().max())
    assert (states.final - layers[-1]).abs().max() < TOLERANCE * float(layers[-1].abs().max())


def test_cache_ragged_batches_and_rollback(tmp_path):
    """Prefill in chunks, decode two requests together with different numbers of rows, overwrite rejected rows."""
    model = make_target(tmp_path)
    decoder = Decoder(tmp_path, (1, 3, 4), num_slots=3, max_len=128)
    generator = torch.Generator().manual_seed(2)
    first, second = (torch.randint(0, 61, (60,), generator=generator).tolist() for _ in range(2))
    decoder.forward(torch.tensor(first[:40]), [Span(0, 0, 40)])
    decoder.forward(torch.tensor(first[40:50]), [Span(0, 40, 10)])
    decoder.forward(torch.tensor(second[:30]), [Span(2, 0, 30)])
    junk = [5, 6, 7, 8]
    decoder.forward(torch.tensor([*junk, second[30]]), [Span(0, 50, 4), Span(2, 30, 1)])
    states = decoder.forward(torch.tensor([*first[50:53], *second[31:36]]), [Span(0, 50, 3), Span(2, 31, 5)])
    got = decoder.logits(states.final)
    expected = torch.cat((reference(model, first[:53])[0][50:], reference(model, second[:36])[0][31:]))
    assert (got - expected).abs().max() < TOLERANCE * float(expected.abs().max())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_scaling": "llama3"}, "rope_scaling is 'llama3'"),
        ({"rope_theta": None}, "rope_theta is None"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        *(({name: None}, name) for name in SIZES),
    ],
)
def test_what_cannot_be_served_is_named(change, named):
    config = {**SHAPE, "architectures": ["LlamaForCausalLM"], "rope_theta": 1e4, **change}
    with pytest.raises(ValueError, match=named):
        ModelConfig.from_hf(config)


def test_a_config_without_rope_theta_means_what_it_means_to_transformers(tmp_path):
    make_target(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    old = {key: value for key, value in config.items() if not key.startswith("rope_")}
    (tmp_path / "config.json").write_text(json.dumps(old))
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = list(range(60))
    decoder = Decoder(tmp_path, (1, 3, 4), num_slots=1, max_len=128)
    got = decoder.logits(decoder.forward(torch.tensor(ids), [Span(0, 0, 60)]).final)
    expected, _ = reference(model, ids)
    assert (got - expected).abs().max() < TOLERANCE * float(expected.abs().max())


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_knows_the_tensors_that_are_read(tmp_path, monkeypatch, kind):
    make_target(tmp_path, kind)
    asked = {}
    read = Weights.tensor

    def note(weights, name, *shape):
        asked[name] = shape
        return read(weights, name, *shape)

    monkeypatch.setattr(Weights, "tensor", note)
    monkeypatch.setattr(Weights, "optional", lambda weights, name, *shape: asked.setdefault(name, shape) and None)
    Decoder(tmp_path, (1, 3, 4), num_slots=1, max_len=128)
    assert ModelConfig.read(tmp_path).tensor_shapes() == asked


def test_end_tokens_come_from_the_generation_config(tmp_path: Path):
    make_target(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4]}))
    assert ModelConfig.read(tmp_path).eos_token_ids == (3, 4)


def test_missing_weights_are_named(tmp_path):
    make_target(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        Decoder(tmp_path, (1, 3, 4), 1, 64)
