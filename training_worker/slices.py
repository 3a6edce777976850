"""One bounded slice of training: load, train, evaluate, publish. The only module that the console's tasks import."""

from __future__ import annotations

import os
import platform
import random
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from speculators import checkpoint
from speculators.checkpoint import CheckpointError
from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft
from speculators.records import EvalReport, TrainProgress, VersionManifest
from training_worker import vocabulary
from training_worker.batches import Example, training_batches
from training_worker.config import ConfigError, SliceJob, SliceResult, TraceSource, wanted_device
from training_worker.day_zero import first_draft, is_first, is_readable
from training_worker.device import find_device, name_of
from training_worker.evaluate import TraceScore, by_domain, replay
from training_worker.memory import give_back_memory
from training_worker.passes import one_pass, with_few, within
from training_worker.segments import Examples
from training_worker.target import Target, Use
from training_worker.trainer import Trainer

STATE_FILE = "trainer.pt"
PROGRESS_SECONDS = 1.0
EVALUATION_TOKENS_PER_SECOND = 600  # of the slice's budget: evaluation must not outgrow training
EVALUATION_TOKENS = 1500  # at least
SCORES_KEPT = 4096
TRAINING_PER_SAVING = 5.0  # a slice trains at least so many times as long as writing its state takes,
TRAINING_PER_EVALUATION = 8.0  # and as its last evaluation took


class TrainingError(RuntimeError):
    """A slice that could not be trained; ``retryable`` is False when the same job would fail again."""

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


@dataclass(slots=True)
class WarmRun:
    """A run that this process trained last; the state on disk is the truth, ``saved`` says whether it still agrees."""

    run_id: str
    target_path: str
    trainer: Trainer
    examples: Examples
    saved: tuple[int, int] = (0, 0)
    save_seconds: float = 0.0  # that writing the state took last
    evaluation_seconds: tuple[float, float] = (0.0, 0.0)  # that the last two evaluations took
    scores: dict[tuple[str, str, int], TraceScore] = field(default_factory=dict)  # (checkpoint, trace id, lookahead)


_warm: dict[str, WarmRun] = {}  # by target path; one run each


def run_slice(
    job: SliceJob, report: Callable[[TrainProgress], None], is_stopping: Callable[[], bool] = lambda: False
) -> SliceResult:
    """Train for about ``job.budget_seconds`` and, when asked to, publish a candidate with its report.

    ``report`` is called about once a second. When ``is_stopping`` says so, the step at work is the last one: what was
    learnt is kept, and nothing published. Safe to kill at any moment: the state on disk is that of the last finished
    slice. Raises TrainingError; its ``retryable`` says whether the same job may succeed later.
    """
    torch.set_num_threads(1)
    try:
        with _forgotten_on_failure(job.target_path):
            if is_first(job):
                return _publish_first(job)
            run = _take_up(job)
            return _Slice(job, run, report, is_stopping).run()
    except (OSError, ConfigError, torch.OutOfMemoryError) as error:
        raise TrainingError(f"{type(error).__name__}: {error}", retryable=True) from error
    except (CheckpointError, KeyError, ValueError) as error:
        raise TrainingError(f"{type(error).__name__}: {error}", retryable=False) from error
    finally:
        give_back_memory()


@contextmanager
def _forgotten_on_failure(target_path: str) -> Iterator[None]:
    """Whatever ends a slice: a run with steps that are on no disk is never taken up, the next slice reads the disk."""
    try:
        yield
    except BaseException:
        _warm.pop(target_path, None)
        raise


def _publish_first(job: SliceJob) -> SliceResult:
    """Version 1 without an optimiser; the first slice with traces starts from it as from any parent."""
    config, state, source = first_draft(job)
    progress = TrainProgress(job.target_slug, job.run_id, 0, 0, 0.0, 0.0, "save", time.time())
    provenance = {"code_version": job.code_version, "torch": torch.__version__, "seed": job.seed, **source}
    return SliceResult(_save(job, _new_folder(job), config, state, provenance), None, progress, (), ())


def _new_folder(job: SliceJob) -> Path:
    return Path(job.versions_dir) / uuid.uuid4().hex


def _save(
    job: SliceJob, folder: Path, config: DraftConfig, state: dict[str, torch.Tensor], provenance: dict[str, object]
) -> VersionManifest:
    """Write a draft; one that cannot be written whole leaves nothing behind."""
    try:
        sha256 = checkpoint.save(folder, config, state)
    except BaseException:
        for unfinished in folder.parent.glob(f"*{folder.name}*"):  # its name is nobody else's
            shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return VersionManifest(
        target=job.target_slug,
        number=0,
        parent=job.parent_version,
        uri=str(folder),
        sha256=sha256,
        size_bytes=(folder / checkpoint.WEIGHTS).stat().st_size,
        config=config.to_hf(),
        provenance=provenance,
    )


def _take_up(job: SliceJob) -> WarmRun:
    """The run as this process left it, else as the disk has it, else from its parent, else from random weights."""
    path = Path(job.work_dir) / STATE_FILE
    run = _warm.get(job.target_path)
    if run is not None and run.run_id == job.run_id and run.saved == _stamp(path) and path.exists():
        run.trainer.lookahead = job.lookahead
        return run
    if run is None and not is_readable(job):
        where = job.target_path or "the directory of a model id: set AURORA_MODELS_DIR for the trainer"
        raise FileNotFoundError(f"the trainer cannot read {where}; it needs the target's embedding and head")
    target = run.examples.target if run is not None else Target(Path(job.target_path), find_device(wanted_device()))
    trainer = _resumed(job, target, path) if path.exists() else _begun(job, target)
    run = WarmRun(job.run_id, job.target_path, trainer, Examples(target, trainer.config.aux_layer_ids), _stamp(path))
    _warm[job.target_path] = run
    return run


def _resumed(job: SliceJob, target: Target, path: Path) -> Trainer:
    config = Trainer.config_of(path) or DraftConfig.for_target(target.config)
    trainer = Trainer(target, config, job.lookahead, job.seed)
    trainer.load(path)
    return trainer


def _begun(job: SliceJob, target: Target) -> Trainer:
    if job.parent_uri:
        config, parent = checkpoint.load(Path(job.parent_uri))
        trainer = Trainer(target, config, job.lookahead, job.seed)
        trainer.start_from(parent)
        return trainer
    config = DraftConfig.for_target(target.config)
    trainer = Trainer(target, config, job.lookahead, job.seed)
    if config.draft_vocab_size == config.vocab_size:
        return trainer
    counts = vocabulary.prior(target.folder, target.config)
    trainer.start_anew(vocabulary.most_frequent(counts, config.draft_vocab_size), counts)
    return trainer


def _stamp(path: Path) -> tuple[int, int]:
    if not path.exists():
        return (0, 0)
    facts = path.stat()
    return (facts.st_ino, facts.st_mtime_ns)


class _Slice:
    """One slice of one run."""

    def __init__(
        self, job: SliceJob, run: WarmRun, report: Callable[[TrainProgress], None], is_stopping: Callable[[], bool]
    ) -> None:
        self.job = job
        self._is_stopping = is_stopping
        self.run_state = run
        self.trainer = run.trainer
        self._report = report
        self._reported_at = -PROGRESS_SECONDS
        self._rate = 0.0
        self._use = Use.GENERATED | Use.PROMPT if self.trainer.recipe.prompt_share else Use.GENERATED
        self._trained: set[str] = set()  # trace ids that a step has seen

    def run(self) -> SliceResult:
        """Load, train, save, evaluate, publish."""
        self._tell("load", now=True)
        if self.job.follows_vocabulary:
            self.trainer.follow(self.job.fresh)
        missing = self._train()
        self._tell("save", now=True)
        self._keep()
        manifest, report = self._publish() if self.job.publish and not self._is_stopping() else (None, None)
        return SliceResult(
            manifest=manifest,
            report=report,
            progress=self._progress("save"),
            trained_trace_ids=tuple(s.trace_id for s in self.job.fresh if s.trace_id in self._trained),
            missing_trace_ids=tuple(sorted(missing)),
        )

    def _keep(self) -> None:
        path = Path(self.job.work_dir) / STATE_FILE
        started = time.monotonic()
        self.trainer.save(path)
        self.run_state.save_seconds = time.monotonic() - started
        self.run_state.saved = _stamp(path)

    @property
    def budget_seconds(self) -> float:
        """Of optimiser steps: what was asked for, or more where writing the state or comparing drafts takes long.

        One evaluation that took long, since states had to be recomputed for it, says nothing of the next one.
        """
        run = self.run_state
        others = TRAINING_PER_SAVING * run.save_seconds, TRAINING_PER_EVALUATION * min(run.evaluation_seconds)
        return max(self.job.budget_seconds, *others)

    def _train(self) -> set[str]:
        """Passes until the budget is used: all fresh traces, and each time other old ones, in a new order.

        A trace is loaded when its step has come: of those that a slice is given it may see a part only. Returns the
        ids of those whose states are gone and could not be recomputed.
        """
        fresh, missing = list(self.job.fresh), set[str]()
        kept, gone = self._by_states(self.job.replay)
        spent, tokens, first_step = 0.0, self.trainer.num_tokens, self.trainer.step_count + 1
        while fresh or kept or gone:
            rng = random.Random(f"{self.job.seed}:{self.trainer.step_count}")
            a_pass = one_pass(fresh, with_few(kept, gone, rng), rng)
            for sources in training_batches(a_pass, self.trainer.recipe.max_positions, rng):
                wanted = [each for each in sources if each.trace_id not in missing]
                examples, lost = self.run_state.examples.load(wanted, self._use)
                missing.update(lost)
                if not examples:
                    continue
                started = time.monotonic()
                self.trainer.step(examples)
                spent += time.monotonic() - started
                self._trained.update(example.source.trace_id for example in examples)
                self._rate = (self.trainer.num_tokens - tokens) / spent
                self._tell("train", now=self.trainer.step_count == first_step)
                if spent >= self.budget_seconds or self._is_stopping():
                    return missing
            groups = (fresh, kept, gone)
            fresh, kept, gone = ([each for each in group if each.trace_id not in missing] for group in groups)
        return missing

    def _by_states(self, sources: Iterable[TraceSource]) -> tuple[list[TraceSource], list[TraceSource]]:
        """Those whose states are at hand, and those that the target has to be run over."""
        kept: list[TraceSource] = []
        gone: list[TraceSource] = []
        for source in sources:
            (kept if self.run_state.examples.are_at_hand(source, self._use) else gone).append(source)
        return kept, gone

    def _publish(self) -> tuple[VersionManifest, EvalReport | None]:
        """Written last: of a draft that cannot be evaluated there would be files that nobody knows."""
        self._tell("evaluate", now=True)
        folder = _new_folder(self.job)
        report = self._evaluate(str(folder)) if self.job.held_out else None
        return _save(self.job, folder, self.trainer.config, self.trainer.averaged, self._provenance()), report

    def _provenance(self) -> dict[str, object]:
        return {
            "code_version": self.job.code_version,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "device": name_of(self.trainer.device),
            "argv": sys.argv[1:],
            "seed": self.job.seed,
            "run_id": self.job.run_id,
            "step": self.trainer.step_count,
            "num_tokens": self.trainer.num_tokens,
            "coverage": self.trainer.coverage(self.job.fresh),
            "num_fresh_traces": len(self.job.fresh),
            "num_replay_traces": len(self.job.replay),
            "first_trace": self.job.fresh[0].trace_id if self.job.fresh else "",
            "last_trace": self.job.fresh[-1].trace_id if self.job.fresh else "",
        }

    def _evaluate(self, candidate_uri: str) -> EvalReport | None:
        """Candidate and live on the same traces; what is known of the live version already is not computed again."""
        started = time.monotonic()
        held_out = within(self.job.held_out, self._evaluation_tokens())
        examples, _ = self.run_state.examples.load(held_out, Use.REPLAY)
        if not examples:
            return None
        candidate = self._scores(candidate_uri, self.trainer.published(), examples)
        live: list[TraceScore] = []
        if self.job.live_uri:
            config, state = checkpoint.load(Path(self.job.live_uri))
            draft = Eagle3Draft.from_state(config, state).to(self.trainer.device)
            live = self._scores(self.job.live_uri, draft, examples)
        num_losses = sum(score.num_losses for score in candidate)
        seconds = time.monotonic() - started
        self.run_state.evaluation_seconds = self.run_state.evaluation_seconds[1], seconds
        return EvalReport(
            candidate=by_domain(candidate, live),
            live=by_domain(live),
            lookahead=self.job.lookahead,
            loss=sum(score.loss_sum for score in candidate) / max(1, num_losses),
            seconds=seconds,
            live_uri=self.job.live_uri,
        )

    def _evaluation_tokens(self) -> int:
        return EVALUATION_TOKENS + int(EVALUATION_TOKENS_PER_SECOND * self.job.budget_seconds)

    def _scores(self, uri: str, draft: Eagle3Draft, examples: Sequence[Example]) -> list[TraceScore]:
        known, lookahead = self.run_state.scores, self.job.lookahead
        new = [e for e in examples if (uri, e.source.trace_id, lookahead) not in known]
        target, dtype = self.run_state.examples.target, self.trainer.recipe.dtype
        for example, score in zip(new, replay(draft, target, new, lookahead, dtype), strict=True):
            known[(uri, example.source.trace_id, lookahead)] = score
        chosen = [known[(uri, e.source.trace_id, lookahead)] for e in examples]
        while len(known) > SCORES_KEPT:
            known.pop(next(iter(known)))
        return chosen

    def _tell(self, phase: str, *, now: bool = False) -> None:
        if now or time.monotonic() - self._reported_at >= PROGRESS_SECONDS:
            self._reported_at = time.monotonic()
            self._report(self._progress(phase))

    def _progress(self, phase: str) -> TrainProgress:
        loss = self.trainer.loss
        return TrainProgress(
            target=self.job.target_slug,
            run_id=self.job.run_id,
            step=self.trainer.step_count,
            num_tokens=self.trainer.num_tokens,
            loss=loss if loss == loss else 0.0,  # nothing trained yet: JSON has no NaN
            tokens_per_second=self._rate,
            phase=phase,
            reported_at=time.time(),
        )
