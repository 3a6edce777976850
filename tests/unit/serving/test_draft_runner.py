"""What is packed for serving is tried out against the reference before it may serve."""

import json

import pytest
import torch

from serving import draft_runner
from speculators import checkpoint
from speculators.checkpoint import CheckpointError
from tests.unit.serving.tiny import make_draft, make_target

PARTS = ("fc", "qkv", "out", "gate_up", "down", "head")


@pytest.fixture
def draft_dir(tmp_path):
    make_target(tmp_path / "target")
    make_draft(tmp_path / "draft", json.loads((tmp_path / "target" / "config.json").read_text()), seed=3)
    return tmp_path / "draft"


@pytest.fixture
def load(draft_dir, monkeypatch):
    """load(dtype, folder) -> the runner, as the engine loads it, with weights of this type."""
    embed_VH = torch.randn(61, 32, generator=torch.Generator().manual_seed(0))

    def make(dtype, folder=draft_dir):
        monkeypatch.setattr(draft_runner, "leanest_dtype", lambda device: dtype)
        return draft_runner.load(folder, embed_VH, 1, 64, None)

    return make


def changed(folder, change):
    """The draft beside it with its tensors changed."""
    config, state = checkpoint.load(folder)
    change(state)
    checkpoint.save(folder.with_name("changed"), config, state)
    return folder.with_name("changed")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_draft_that_attends_sharply_is_no_fault(load, draft_dir, dtype):
    def sharpen(state):
        for name in "qk":
            state[f"midlayer.self_attn.{name}_proj.weight"] *= 8
        state["lm_head.weight"] *= 30

    assert load(dtype, changed(draft_dir, sharpen)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_was_packed_wrongly_is_found(load, monkeypatch, part, dtype):
    linear, packed = draft_runner._linear, iter(PARTS)
    faulty = lambda weight, dtype: linear(weight.roll(1, 0) if next(packed) == part else weight, dtype)  # noqa: E731
    monkeypatch.setattr(draft_runner, "_linear", faulty)
    with pytest.raises(CheckpointError, match="packed logits differ from the reference by"):
        load(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("part", PARTS)
def test_another_weight_in_memory_is_another_checksum(load, draft_dir, monkeypatch, part, dtype):
    linear, weights = draft_runner._linear, []
    monkeypatch.setattr(draft_runner, "_linear", lambda weight, dtype: weights.append(weight) or linear(weight, dtype))
    runner = load(dtype)
    assert runner.in_memory() == runner.sha256 == checkpoint.state_digest(checkpoint.load(draft_dir)[1])
    weight = weights[PARTS.index(part)].to(dtype)
    if dtype == torch.float16:
        weight.view(torch.int16)[-1, -1] ^= 1  # one bit: products are made in float32
    else:
        weight[-1, -1] *= 2
    setattr(runner, f"_{part}", linear(weight, dtype))
    assert runner.in_memory() != runner.sha256


def test_weights_that_are_no_numbers_are_refused(load, draft_dir):
    without_numbers = changed(draft_dir, lambda state: state["fc.weight"].fill_(float("nan")))
    with pytest.raises(CheckpointError):
        load(torch.float32, without_numbers)


@pytest.mark.parametrize(
    ("differences", "is_served"),
    [
        ([0.0919, 0.0532, 0.0073, 0.0063, 0.0022], True),  # measured: a version of the demo after a shift
        ([0.19, 0.18, 0.005, 0.005, 0.005], True),
        ([0.38, 0.39, 0.45, 0.82, 1.23], False),  # measured: its first matrix packed wrongly
        ([0.005, 0.005, 0.005, 0.005, float("inf")], False),
    ],
)
def test_one_context_that_rounding_turned_condemns_no_draft(load, monkeypatch, differences, is_served):
    found = iter(differences)
    monkeypatch.setattr(draft_runner, "_difference", lambda *given: next(found))
    if is_served:
        assert load(torch.bfloat16).sha256
        return
    with pytest.raises(CheckpointError, match=f"worst {max(differences):.2g}"):
        load(torch.bfloat16)
