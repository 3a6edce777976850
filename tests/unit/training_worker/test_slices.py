"""One slice from end to end, on real files."""

import functools
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from speculators import checkpoint
from training_worker import passes, segments, slices
from training_worker.config import SliceJob
from training_worker.segments import Examples
from training_worker.slices import TrainingError, run_slice
from training_worker.target import Target
from training_worker.trainer import Recipe


@pytest.fixture
def job(target_dir, traces, tmp_path):
    return SliceJob(
        target_slug="demo",
        target_path=str(target_dir),
        run_id="run",
        work_dir=str(tmp_path / "work"),
        versions_dir=str(tmp_path / "versions"),
        parent_version=None,
        parent_uri="",
        live_uri="",
        fresh=tuple(traces(8)),  # one batch: trained whole however slow the machine is
        replay=(),
        held_out=(*traces(4, seed=1), *traces(3, "prose", seed=2)),
        lookahead=3,
        budget_seconds=0.5,
        seed=3,
        code_version="test",
        publish=True,
    )


def test_day_zero_publishes_random_weights(job):
    result = run_slice(replace(job, fresh=(), held_out=()), lambda progress: None)
    assert result.report is None
    assert result.manifest.number == 0
    _, state = checkpoint.load(Path(result.manifest.uri), result.manifest.sha256)
    assert checkpoint.state_digest(state) == result.manifest.sha256


def test_a_slice_trains_evaluates_and_publishes(job):
    heard = []
    first = run_slice(job, heard.append)
    assert {"load", "train", "save", "evaluate"} <= {progress.phase for progress in heard}
    assert set(first.trained_trace_ids) == {source.trace_id for source in job.fresh}
    assert [score.domain for score in first.report.candidate] == ["prose", "sql"]
    assert sum(score.num_traces for score in first.report.candidate) == 7
    second = run_slice(replace(job, live_uri=first.manifest.uri, parent_version=1), heard.append)
    assert second.progress.step > first.progress.step
    assert [s.num_traces for s in second.report.live] == [s.num_traces for s in second.report.candidate]
    assert second.report.live == first.report.candidate  # the same version on the same traces
    assert second.manifest.provenance["num_fresh_traces"] == 8


def test_candidate_and_live_are_replayed_with_the_same_lookahead_after_the_policy_has_changed(job, traces):
    def places(scores):
        return {len(score.proposed_by_position) for score in scores}

    first = run_slice(job, lambda progress: None)
    later = replace(job, live_uri=first.manifest.uri, parent_version=1)
    run_slice(later, lambda progress: None)
    for lookahead, held_out in ((1, job.held_out), (2, (*job.held_out, *traces(2, seed=9)))):
        report = run_slice(replace(later, lookahead=lookahead, held_out=held_out), lambda progress: None).report
        assert report.lookahead == lookahead
        assert places(report.candidate) == places(report.live) == {lookahead}


@pytest.mark.parametrize("kind", ["fresh", "replay"])
def test_what_is_held_out_is_never_trained_on(job, kind):
    with pytest.raises(ValueError, match=job.held_out[0].trace_id):
        replace(job, **{kind: (*job.fresh, job.held_out[0])})


def test_another_process_goes_on_where_the_last_one_stopped(job, monkeypatch):
    first = run_slice(job, lambda progress: None)
    monkeypatch.setattr(slices, "_warm", {})  # as a restarted worker begins
    second = run_slice(replace(job, fresh=(), held_out=(), publish=False), lambda progress: None)
    assert second.progress.step == first.progress.step
    assert second.progress.num_tokens == first.progress.num_tokens


def test_a_slice_that_is_to_stop_ends_with_the_step_at_work_and_keeps_it(job, monkeypatch):
    heard = []
    endless = replace(job, budget_seconds=1e9)
    stopped = run_slice(endless, heard.append, lambda: any(progress.phase == "train" for progress in heard))
    assert (stopped.manifest, stopped.report) == (None, None)
    assert stopped.progress.step == 1
    assert set(stopped.trained_trace_ids) == {source.trace_id for source in job.fresh}
    monkeypatch.setattr(slices, "_warm", {})  # as a restarted worker begins
    assert run_slice(job, lambda progress: None).progress.step > 1


def test_a_state_that_takes_long_to_write_makes_slices_longer(job):
    run_slice(replace(job, held_out=(), publish=False), lambda progress: None)
    run = slices._warm[job.target_path]
    assert run.save_seconds > 0
    for save_seconds, expected in ((0.01, 0.5), (12.0, 60.0)):
        run.save_seconds = save_seconds
        assert slices._Slice(job, run, print, bool).budget_seconds == expected


def kept_drafts(job):
    return sorted(path.name for path in Path(job.versions_dir).iterdir())


def test_a_draft_that_cannot_be_compared_leaves_no_files(job):
    """A live version that is damaged fails every slice: a draft of gigabytes each time would fill the disk."""
    live = Path(run_slice(replace(job, held_out=()), lambda progress: None).manifest.uri)
    weights = live / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    for _ in range(2):
        with pytest.raises(TrainingError, match=checkpoint.WEIGHTS):
            run_slice(replace(job, live_uri=str(live), parent_version=1), lambda progress: None)
    assert kept_drafts(job) == [live.name]


@pytest.mark.parametrize("is_first", [False, True])
def test_a_draft_that_cannot_be_written_whole_leaves_no_files(job, monkeypatch, is_first):
    def break_off(path, payload):
        path.write_bytes(payload[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_durably", break_off)
    wanted = replace(job, fresh=(), held_out=()) if is_first else job
    with pytest.raises(TrainingError, match="No space left"):
        run_slice(wanted, lambda progress: None)
    assert kept_drafts(job) == []


@pytest.mark.parametrize("failure", [RuntimeError("the database is gone"), KeyboardInterrupt()])
def test_after_any_failure_the_next_slice_goes_on_from_the_disk(job, failure):
    def fail(progress):
        if progress.phase == "train":
            raise failure

    kept = run_slice(replace(job, publish=False), lambda progress: None)
    with pytest.raises(type(failure)):
        run_slice(job, fail)
    resumed = run_slice(replace(job, fresh=(), held_out=(), publish=False), lambda progress: None)
    assert (resumed.progress.step, resumed.progress.num_tokens) == (kept.progress.step, kept.progress.num_tokens)


def test_lost_states_are_recomputed(job, monkeypatch):
    monkeypatch.setattr(slices, "_warm", {})
    gone = tuple(replace(source, segment_uri="/nowhere/gone.safetensors") for source in job.fresh)
    result = run_slice(replace(job, fresh=gone), lambda progress: None)
    assert not result.missing_trace_ids
    assert len(result.trained_trace_ids) == 8


def test_states_that_cannot_be_had_are_reported(job, monkeypatch, tmp_path, target_dir):
    import shutil

    monkeypatch.setattr(slices, "_warm", {})
    broken = tmp_path / "target"
    shutil.copytree(target_dir, broken)
    run_slice(replace(job, target_path=str(broken), fresh=job.fresh[:2]), lambda progress: None)
    (broken / "model.safetensors").unlink()  # an open mapping keeps the old file
    (broken / "model.safetensors").write_bytes(b"")
    gone = replace(job.fresh[5], segment_uri="")
    result = run_slice(replace(job, target_path=str(broken), fresh=(gone, job.fresh[0])), lambda progress: None)
    assert result.missing_trace_ids == (gone.trace_id,)


def test_a_trace_is_read_when_its_step_has_come(job, traces, monkeypatch):
    """Loading them all takes longer than a slice trains, where a target is large or traces are many."""
    monkeypatch.setattr(slices, "_warm", {})
    monkeypatch.setattr(Recipe, "__init__", functools.partialmethod(Recipe.__init__, max_positions=128))
    read = []
    honest = Examples._read
    monkeypatch.setattr(
        Examples, "_read", lambda self, source, *more: read.append(source) or honest(self, source, *more)
    )
    old = tuple(traces(9, seed=5))
    result = run_slice(replace(job, replay=old, held_out=(), budget_seconds=0.0), lambda progress: None)
    assert len(read) == 2  # one step of two rows
    assert set(result.trained_trace_ids) == {source.trace_id for source in set(read) & set(job.fresh)}


def test_traces_whose_states_are_gone_are_drawn_once(job, traces, monkeypatch):
    """Fresh ones and old ones; those that are there are trained on meanwhile."""
    steps = itertools.count()  # all 17 fit into two steps: by the tenth every one was wanted several times
    monkeypatch.setattr(slices, "_warm", {})
    monkeypatch.setattr(passes, "REPLAY_PER_PASS", 9)
    asked = []
    monkeypatch.setattr(Examples, "_recompute", lambda self, source, use: asked.append(source))
    old = traces(9, seed=5)
    gone = [replace(source, segment_uri="/nowhere/gone.safetensors") for source in (*job.fresh[:4], *old[:5])]
    given = replace(job, fresh=(*gone[:4], *job.fresh[4:]), replay=(*gone[4:], *old[5:]), held_out=(), publish=False)
    result = run_slice(replace(given, budget_seconds=1e9), lambda progress: None, lambda: next(steps) == 10)
    assert len(asked) == len(set(asked)) == 9
    assert set(result.missing_trace_ids) == {source.trace_id for source in gone}
    assert set(result.trained_trace_ids) == {source.trace_id for source in job.fresh[4:]}
    lost = run_slice(replace(given, fresh=tuple(gone[:4]), replay=()), lambda progress: None)
    assert (lost.trained_trace_ids, len(lost.missing_trace_ids)) == ((), 4)


def test_few_of_the_old_traces_are_those_whose_states_are_gone(job, traces, monkeypatch):
    """Recomputing one takes longer than learning from it, and the longer all runs, the more of those given are gone."""
    monkeypatch.setattr(slices, "_warm", {})
    monkeypatch.setattr(passes, "REPLAY_PER_PASS", 34)
    monkeypatch.setattr(Recipe, "__init__", functools.partialmethod(Recipe.__init__, max_positions=4096))
    asked = []
    honest = Examples._recompute
    monkeypatch.setattr(
        Examples, "_recompute", lambda self, source, use: asked.append(source) or honest(self, source, use)
    )
    gone = [replace(source, segment_uri="/nowhere/gone.safetensors") for source in traces(64, seed=6)]
    given = replace(job, fresh=(), replay=(*traces(32, seed=5), *gone), held_out=(), publish=False)
    steps = itertools.count()  # each a pass
    run_slice(replace(given, budget_seconds=1e9), lambda progress: None, lambda: next(steps) == 3)
    assert 2 < len(asked) <= 4 * 2  # others in each pass; what was recomputed stays in memory


def test_one_evaluation_that_took_long_makes_no_slice_longer(job):
    """Its states may have had to be recomputed; the next one has them."""
    run_slice(job, lambda progress: None)
    run = slices._warm[job.target_path]
    assert run.evaluation_seconds[0] == 0 < run.evaluation_seconds[1]
    for seconds, expected in (((0.0, 60.0), 0.5), ((60.0, 0.01), 0.5), ((60.0, 30.0), 240.0)):
        run.save_seconds, run.evaluation_seconds = 0.0, seconds
        assert slices._Slice(job, run, print, bool).budget_seconds == expected


def test_the_target_is_asked_about_a_trace_once(job, target, monkeypatch):
    monkeypatch.setattr(segments, "CACHE_BYTES", 0)  # every example is read again
    asked = []
    honest = Target.example
    monkeypatch.setattr(
        Target, "example", lambda self, source, *states: asked.append(source) or honest(self, source, *states)
    )
    examples = Examples(target, (1, 3, 4))
    first, again = (examples.load(job.fresh)[0] for _ in range(2))
    assert len(asked) == len(job.fresh)
    for one, other in zip(first, again, strict=True):
        assert one.teacher is other.teacher
        assert torch.equal(one.features, other.features)


def test_a_target_that_is_gone_may_come_back(job, tmp_path):
    with pytest.raises(TrainingError) as caught:
        run_slice(replace(job, target_path=str(tmp_path / "nowhere")), lambda progress: None)
    assert caught.value.retryable


def test_a_parent_of_another_shape_is_refused_for_good(job, tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "_warm", {})
    (tmp_path / "bad").mkdir()
    with pytest.raises(TrainingError, match="bad") as caught:
        run_slice(replace(job, parent_uri=str(tmp_path / "bad"), work_dir=str(tmp_path / "w2")), lambda progress: None)
    assert not caught.value.retryable


def test_what_no_step_has_seen_is_not_called_trained(job, monkeypatch):
    monkeypatch.setattr(Recipe, "__init__", functools.partialmethod(Recipe.__init__, max_positions=64))
    result = run_slice(replace(job, run_id="short", budget_seconds=0.0), lambda progress: None)
    assert len(result.trained_trace_ids) == 1  # one step of one row
    assert set(result.trained_trace_ids) < {source.trace_id for source in job.fresh}
