"""From rows to the SliceJob that the trainer is given; runs inside the trainer's process only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings

from aurora_web.registry.models import Target
from aurora_web.registry.services import find_version
from aurora_web.traces import services as traces
from aurora_web.training import selection
from aurora_web.training.models import SliceState, TrainingSlice
from aurora_web.training.services import FIRST_SLICE_SECONDS, LEASE_SECONDS

SIDECAR = "aurora sidecar"  # in the name of its engine: serving/sglang_backend/sidecar.py

if TYPE_CHECKING:
    from training_worker.config import SliceJob, TraceSource


def build_job(row: TrainingSlice, target: Target) -> SliceJob:
    """Lease the fresh traces of ``row`` and describe the slice."""
    from training_worker.config import SliceJob

    num_done = row.run.slices.filter(state=SliceState.DONE).count()
    fresh, replay, held_out = _sources(*_choose(row, target, num_done))
    parent = target.versions.order_by("-number").first()
    live = find_version(target, "@live")
    return SliceJob(
        target_slug=target.slug,
        target_path=directory_of(target),
        run_id=row.run_id.hex,
        work_dir=str(settings.TRAINING_DIR / target.slug / row.run_id.hex),
        versions_dir=str(settings.VERSIONS_DIR / target.slug),
        parent_version=parent.number if parent else None,
        parent_uri=parent.uri if parent else "",
        live_uri=live.uri if live else "",
        fresh=fresh,
        replay=replay,
        held_out=held_out,
        lookahead=target.learnt_lookahead,
        budget_seconds=min(target.slice_seconds, FIRST_SLICE_SECONDS + num_done),
        seed=row.run.seed,
        code_version=settings.CODE_VERSION,
        publish=True,
        follows_vocabulary=_follows_vocabulary(target),
        target_config=target.config,
        import_path=target.draft_path if row.is_day_zero else "",
        import_name=str(target.draft_version) if row.is_day_zero and target.draft_version else "",
    )


def _choose(row: TrainingSlice, target: Target, num_done: int) -> tuple[list[UUID], list[UUID], list[UUID]]:
    """Ids of the traces that are fresh (leased), replayed and held out; ``row`` notes how many. Day 0 has none."""
    fresh: list[UUID] = []
    replay: list[UUID] = []
    held_out: list[UUID] = []
    if not row.is_day_zero:
        fresh = traces.lease_fresh(target, row.pk, settings.FRESH_TRACES_PER_SLICE, LEASE_SECONDS)
        replay = selection.replay_ids(target, settings.REPLAY_TRACES_PER_SLICE, seed=num_done)
        held_out = selection.held_out_ids(target, settings.HELD_OUT_TRACES_PER_DOMAIN)
    row.num_fresh, row.num_replay, row.num_held_out = len(fresh), len(replay), len(held_out)
    TrainingSlice.objects.filter(pk=row.pk).update(
        num_fresh=row.num_fresh, num_replay=row.num_replay, num_held_out=row.num_held_out
    )
    return fresh, replay, held_out


def _follows_vocabulary(target: Target) -> bool:
    """Whether every engine takes a version that proposes other tokens: what a sidecar can write has no ``d2t``."""
    return not target.replicas.filter(engine__contains=SIDECAR).exists()


def directory_of(target: Target) -> str:
    """The checkpoint directory as this process, the trainer, sees it; "" when nobody has said where it is."""
    if target.path or settings.MODELS_DIR is None:
        return target.path
    return str(settings.MODELS_DIR / target.model_id)


def _sources(*groups: list[UUID]) -> list[tuple[TraceSource, ...]]:
    from training_worker.config import TraceSource

    loaded = {t.trace_id: t for t in selection.load(i for group in groups for i in group)}
    segments = selection.segments(list(loaded.values()))

    def source(trace_id: UUID) -> TraceSource:
        fields: dict[str, Any] = selection.source_fields(loaded[trace_id], segments)
        return TraceSource(**fields)

    return [tuple(source(i) for i in group if i in loaded) for group in groups]
