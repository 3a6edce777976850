"""Where the trainer computes: the setting, its errors, and that a step stays on one device."""

import contextlib
from dataclasses import replace

import pytest
import torch

from speculators.draft_config import DraftConfig
from training_worker import batches, slices, trainer
from training_worker.config import DEVICE, ConfigError, SliceJob, wanted_device
from training_worker.device import find_device, name_of
from training_worker.segments import Examples
from training_worker.slices import TrainingError, run_slice
from training_worker.target import Target


@pytest.fixture
def gpus(monkeypatch):
    """gpus(n): torch sees so many."""

    def see(num):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: num > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num)
        monkeypatch.setattr(torch.version, "cuda", "13.0" if num else None)

    return see


def test_a_gpu_is_taken_where_there_is_one(gpus):
    assert wanted_device({}) == wanted_device({DEVICE: " "}) == "auto"
    gpus(0)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    assert name_of(find_device("cpu")) == "cpu"
    gpus(2)
    assert find_device("auto") == find_device("cuda") == torch.device("cuda", 0)
    assert find_device("cuda:1") == torch.device("cuda", 1)
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("value", ["gpu", "CUDA", "cuda:", "cuda:-1", "mps"])
def test_a_wrong_setting_is_explained(value):
    with pytest.raises(ConfigError, match=f"{DEVICE}='{value}': must be auto, cpu, cuda or cuda:N"):
        wanted_device({DEVICE: value})


def test_a_missing_gpu_is_explained(gpus, monkeypatch):
    gpus(0)
    with pytest.raises(ConfigError, match=f"{DEVICE}='cuda': torch .* has no CUDA; auto or cpu"):
        find_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(ConfigError, match=r"for CUDA 13\.0 finds no GPU or driver"):
        find_device("cuda:0")
    gpus(2)
    with pytest.raises(ConfigError, match=f"{DEVICE}='cuda:2': this process sees cuda:0, cuda:1 only"):
        find_device("cuda:2")


def test_a_slice_says_so_and_may_succeed_later(target_dir, tmp_path, gpus, monkeypatch):
    gpus(0)
    monkeypatch.setattr(slices, "_warm", {})
    monkeypatch.setenv(DEVICE, "cuda")
    job = SliceJob(
        target_slug="demo",
        target_path=str(target_dir),
        run_id="run",
        work_dir=str(tmp_path / "work"),
        versions_dir=str(tmp_path / "versions"),
        parent_version=None,
        parent_uri="",
        live_uri="",
        fresh=(),
        replay=(),
        held_out=(),
        lookahead=3,
        budget_seconds=0.1,
        seed=0,
        code_version="test",
        publish=True,
    )
    with pytest.raises(TrainingError, match=DEVICE) as caught:
        run_slice(job, lambda progress: None)
    assert caught.value.retryable


def test_a_full_gpu_may_have_room_later(target, traces, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    gone = [replace(source, segment_uri="") for source in traces(1)]
    monkeypatch.setattr(target, "recompute", full)
    with pytest.raises(torch.OutOfMemoryError):  # not: a trace that cannot be had
        Examples(target, (1, 3, 4)).load(gone)


def test_a_step_stays_on_the_targets_device_and_asks_it_for_nothing(target_dir, target, traces, monkeypatch):
    """On torch's device without data an operation over two devices fails, and so does reading a value."""
    meta = torch.device("meta")
    examples, _ = Examples(target, (1, 3, 4)).load((*traces(6), *traces(3, temperature=0.7)))
    elsewhere = Target(target_dir)
    elsewhere.device = meta
    elsewhere.embed_VH = elsewhere.head_VH = elsewhere.embed_VH.to(meta)
    for module in (batches, trainer):
        monkeypatch.setattr(module, "sent", lambda tensor, device: tensor.to(device))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # has no such device
    learner = trainer.Trainer(
        elsewhere, DraftConfig.for_target(target.config), 3, seed=1, recipe=trainer.Recipe(dtype=torch.float32)
    )
    loss, first = learner._losses(batches.make_batch(examples), 0, 1.0)
    loss.backward()
    learner._optimisers[0].step()  # the other one is torch's own and has no kernel for it
    learner.step_count += 1
    learner._average()
    assert {p.grad.device for p in learner.draft.parameters()} == {first.device} == {meta}
