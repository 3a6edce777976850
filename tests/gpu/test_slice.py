"""Whole slices on the GPU, and what they publish in the embedded engine."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from speculators import checkpoint
from speculators.draft_config import DraftConfig
from tests.unit.serving.engine.running import engine_of, submit
from training_worker import slices
from training_worker.config import DEVICE, SliceJob
from training_worker.slices import TrainingError, run_slice
from training_worker.trainer import Trainer

LOOKAHEAD = 3


@pytest.fixture
def job(target_dir, traces, tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "_warm", {})
    monkeypatch.setenv(DEVICE, "cuda")
    return SliceJob(
        target_slug="tiny",
        target_path=str(target_dir),
        run_id="run",
        work_dir=str(tmp_path / "work"),
        versions_dir=str(tmp_path / "versions"),
        parent_version=None,
        parent_uri="",
        live_uri="",
        fresh=tuple(traces(8)),
        replay=(),
        held_out=(*traces(4, seed=1), *traces(3, "prose", temperature=0.7, seed=2)),
        lookahead=LOOKAHEAD,
        budget_seconds=0.5,
        seed=3,
        code_version="test",
        publish=True,
    )


def test_a_slice_trains_evaluates_and_publishes_on_the_gpu(job, gpu):
    before = torch.cuda.max_memory_allocated(gpu)
    heard = []
    first = run_slice(job, heard.append)
    assert torch.cuda.max_memory_allocated(gpu) > before or before > 0
    assert slices._warm[job.target_path].trainer.draft.fc.weight.is_cuda
    assert {"load", "train", "save", "evaluate"} <= {progress.phase for progress in heard}
    assert first.manifest.provenance["device"] == torch.cuda.get_device_name(gpu)
    assert [score.domain for score in first.report.candidate] == ["prose", "sql"]
    checkpoint.load(Path(first.manifest.uri), first.manifest.sha256)
    second = run_slice(replace(job, live_uri=first.manifest.uri, parent_version=1), heard.append)
    assert second.report.live == first.report.candidate


def test_a_cpu_worker_takes_a_gpus_run_up_and_gives_it_back(job, monkeypatch):
    steps = []
    for device in ("cuda", "cpu", "auto"):
        monkeypatch.setattr(slices, "_warm", {})
        monkeypatch.setenv(DEVICE, device)
        steps.append(run_slice(job, lambda progress: None).progress.step)
    assert steps == sorted(set(steps))
    assert slices._warm[job.target_path].trainer.device.type == "cuda"


def test_day_zero_and_lost_states(job):
    first = run_slice(replace(job, fresh=(), held_out=()), lambda progress: None)
    _, state = checkpoint.load(Path(first.manifest.uri), first.manifest.sha256)
    assert checkpoint.state_digest(state) == first.manifest.sha256
    gone = tuple(replace(source, segment_uri="") for source in job.fresh)
    result = run_slice(replace(job, run_id="other", fresh=gone, work_dir=job.work_dir + "2"), lambda progress: None)
    assert len(result.trained_trace_ids) == len(gone) and not result.missing_trace_ids


def test_a_gpu_that_is_not_there_is_named(job, monkeypatch):
    monkeypatch.setenv(DEVICE, "cuda:99")
    with pytest.raises(TrainingError, match=r"AURORA_TRAINER_DEVICE='cuda:99'.*cuda:0.*or auto"):
        run_slice(job, lambda progress: None)


def test_the_embedded_engine_serves_what_the_gpu_trained(target_dir, gpu_target, examples, tmp_path):
    config = DraftConfig.for_target(gpu_target.config)
    trainer = Trainer(gpu_target, config, LOOKAHEAD, seed=0)
    for _ in range(40):
        trainer.step(examples)
    digest = checkpoint.save(tmp_path / "v1", config, trainer.averaged)
    assert digest == checkpoint.state_digest(checkpoint.load(tmp_path / "v1", digest)[1])
    greedy = [e.source for e in examples if e.source.temperature == 0]
    with engine_of(target_dir, fixed_lookahead=LOOKAHEAD) as engine:
        engine.swap(1, engine.load_draft(tmp_path / "v1")).result(60)
        waiters = [submit(engine, s.tokens[: s.prompt_len], max_tokens=20, ignore_eos=True) for s in greedy]
        finished = [waiter.result() for waiter in waiters]
    assert sum(f.num_correct_drafts for f in finished) > sum(f.num_verify_steps for f in finished) // 4
    assert {f.version for f in finished} == {1}
