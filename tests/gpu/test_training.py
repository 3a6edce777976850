"""The GPU computes what the CPU computes: steps, states, evaluation and files."""

import random
from dataclasses import replace

import pytest
import torch

from speculators import optimiser
from speculators.draft_config import DraftConfig
from tests.unit.training_worker.conftest import AUX
from training_worker.batches import make_batch
from training_worker.evaluate import replay
from training_worker.trainer import Recipe, Trainer

LOOKAHEAD = 3
STEPS = 3
# ‖gpu - cpu‖ / ‖cpu‖ in float32. Orthogonalisation makes small singular values, and the rounding in them, large.
GRADIENT_TOLERANCE = 1e-4
WEIGHT_TOLERANCE = 1e-3
STATE_TOLERANCE = 1e-3  # states are kept in float16
PROBABILITY_TOLERANCE = 0.02  # the teacher's head is in bfloat16


def trainer_on(target, vocabulary=None, **recipe):
    config = DraftConfig.for_target(target.config)
    config = replace(config, draft_vocab_size=vocabulary or config.vocab_size)
    return Trainer(target, config, LOOKAHEAD, seed=1, recipe=Recipe(**recipe) if recipe else None)


def distance(ours, reference):
    reference = reference.float()
    return float((ours.cpu().float() - reference).norm() / reference.norm().clamp_min(1e-12))


@pytest.mark.parametrize("vocabulary", [None, 30])
def test_gradients_equal_the_cpus(target, gpu_target, examples, vocabulary):
    found = []
    for each in (target, gpu_target):
        trainer = trainer_on(each, vocabulary, dtype=torch.float32)
        loss, first = trainer._losses(make_batch(examples, each.device), 0, 1.0)
        loss.backward()
        found.append((trainer, float(loss.detach()), float(first)))
    (cpu, *losses), (gpu, *gpu_losses) = found
    assert gpu_losses == pytest.approx(losses, rel=1e-5)
    for (name, ours), (_, expected) in zip(gpu.draft.named_parameters(), cpu.draft.named_parameters(), strict=True):
        assert ours.grad.is_cuda
        assert distance(ours.grad, expected.grad) < GRADIENT_TOLERANCE, name


def test_steps_equal_the_cpus(target, gpu_target, examples, monkeypatch):
    monkeypatch.setattr(optimiser, "fastest_dtype", lambda device: torch.float32)
    cpu, gpu = (trainer_on(each, dtype=torch.float32) for each in (target, gpu_target))
    for _ in range(STEPS):
        cpu.step(examples)
        gpu.step(examples)
    assert gpu.loss == pytest.approx(cpu.loss, rel=WEIGHT_TOLERANCE)
    assert gpu.num_tokens == cpu.num_tokens
    for name, expected in cpu.averaged.items():
        assert distance(gpu.averaged[name], expected) < WEIGHT_TOLERANCE, name


def test_bfloat16_goes_where_the_cpus_float32_goes(target, gpu_target, examples):
    cpu, gpu = trainer_on(target, dtype=torch.float32), trainer_on(gpu_target)
    assert gpu.recipe.dtype == torch.bfloat16
    cpu.step(examples)
    before = cpu.loss
    gpu.step(examples)
    for _ in range(11):
        cpu.step(examples)
        gpu.step(examples)
    assert abs(gpu.loss - cpu.loss) < 0.1 * cpu.loss
    assert gpu.loss < before


def test_a_step_is_queued_whole(gpu_target, examples):
    """Nothing in a step waits for the GPU."""
    trainer = trainer_on(gpu_target)
    trainer.step(examples)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(examples)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.step_count == 2


def test_a_run_killed_and_resumed_equals_one_that_was_not(gpu_target, examples, tmp_path):
    whole, part = trainer_on(gpu_target), trainer_on(gpu_target)
    for _ in range(STEPS):
        whole.step(examples)
        part.step(examples)
    part.save(tmp_path / "t.pt")
    resumed = trainer_on(gpu_target)
    resumed.load(tmp_path / "t.pt")
    for _ in range(STEPS):
        whole.step(examples)
        resumed.step(examples)
    for name, expected in whole.draft.state_dict().items():
        assert torch.equal(resumed.draft.state_dict()[name], expected), name
        assert torch.equal(resumed.averaged[name], whole.averaged[name]), name


def test_a_run_goes_on_on_the_other_device(target, gpu_target, examples, tmp_path, monkeypatch):
    monkeypatch.setattr(optimiser, "fastest_dtype", lambda device: torch.float32)
    first, there, back = (trainer_on(each, dtype=torch.float32) for each in (gpu_target, target, gpu_target))
    first.step(examples)
    first.save(tmp_path / "gpu.pt")
    assert all(not tensor.is_cuda for tensor in torch.load(tmp_path / "gpu.pt", weights_only=True)["averaged"].values())
    there.load(tmp_path / "gpu.pt")
    there.save(tmp_path / "cpu.pt")
    back.load(tmp_path / "cpu.pt")
    for trainer in (first, there, back):
        trainer.step(examples)
    for name, expected in first.averaged.items():
        assert torch.equal(back.averaged[name], expected), name
        assert distance(there.averaged[name], expected.cpu()) < WEIGHT_TOLERANCE, name


def test_replay_scores_as_on_the_cpu(target, gpu_target, examples, tmp_path):
    trainer = trainer_on(gpu_target)
    for _ in range(40):
        trainer.step(random.Random(trainer.step_count).sample(examples, 8))
    trainer.save(tmp_path / "t.pt")
    on_cpu = trainer_on(target)
    on_cpu.load(tmp_path / "t.pt")
    ours = replay(trainer.published(), gpu_target, examples, LOOKAHEAD)
    expected = replay(on_cpu.published(), target, examples, LOOKAHEAD)
    assert sum(score.num_correct_drafts for score in expected) > 20
    for one, other in zip(ours, expected, strict=True):
        assert one.loss_sum == pytest.approx(other.loss_sum, rel=1e-4)
        assert replace(one, loss_sum=0.0) == replace(other, loss_sum=0.0)


def test_recomputed_states_are_the_cpus(target, gpu_target, examples):
    for example in examples[:8]:
        ours = gpu_target.recompute(example.source, AUX)
        assert not (ours.features.is_cuda or ours.teacher.probs.is_cuda)
        assert distance(ours.features, example.features) < STATE_TOLERANCE
        assert distance(*(each.states(example.source, AUX)[1] for each in (gpu_target, target))) < STATE_TOLERANCE
        assert (ours.teacher.probs - example.teacher.probs).abs().max() < PROBABILITY_TOLERANCE
        same = (ours.teacher.ids[:, :, None] == example.teacher.ids[:, None]).any(-1)
        assert same.float().mean() > 0.9  # the last of those kept lie close together
