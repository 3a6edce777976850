"""Which traces a slice works on: fresh ones (leased), a replay of older ones, and held-out ones."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import timedelta
from uuid import UUID

from django.db.models import F, Window
from django.db.models.functions import RowNumber
from django.utils import timezone

from aurora_web.registry.models import Target
from aurora_web.traces.codec import unpack_steps
from aurora_web.traces.models import Trace, TraceSegment
from aurora_web.traces.pins import untrained_domains

REPLAY_POOL = 2000  # trained traces that the sample is drawn from, newest first
HELD_OUT_AGE = timedelta(hours=6)


def held_out_ids(target: Target, per_domain: int) -> list[UUID]:
    """The newest held-out traces of each domain."""
    recent = Trace.objects.filter(target=target, is_held_out=True, received_at__gte=timezone.now() - HELD_OUT_AGE)
    rank = Window(RowNumber(), partition_by=[F("domain")], order_by=F("received_at").desc())
    ranked = recent.exclude(is_lost=True).annotate(rank=rank).filter(rank__lte=per_domain)
    return list(ranked.values_list("trace_id", flat=True))


def replay_ids(target: Target, limit: int, seed: int) -> list[UUID]:
    """A sample of traces trained on before, the same number from each domain as far as there are so many.

    A domain that is pinned to no training is not trained on again either.
    """
    trained = Trace.objects.filter(target=target, trained_at__isnull=False, is_lost=False).order_by("-trained_at")
    trained = trained.exclude(domain__in=untrained_domains(target))
    by_domain: dict[str, list[UUID]] = defaultdict(list)
    for trace_id, domain in trained.values_list("trace_id", "domain")[:REPLAY_POOL]:
        by_domain[domain].append(trace_id)
    return balanced_sample(by_domain, limit, random.Random(seed))


def balanced_sample(by_domain: dict[str, list[UUID]], limit: int, rng: random.Random) -> list[UUID]:
    """At most ``limit`` ids; a domain with few gives all of them, and the others share the rest."""
    chosen: list[UUID] = []
    remaining = sorted(by_domain.items(), key=lambda item: (len(item[1]), item[0]))
    while remaining:
        share = (limit - len(chosen)) // len(remaining)
        _, ids = remaining.pop(0)
        chosen += rng.sample(ids, min(share, len(ids)))
    return chosen


def load(ids: Iterable[UUID]) -> list[Trace]:
    """The traces with these ids."""
    return list(Trace.objects.filter(trace_id__in=list(ids)))


def segments(traces: Sequence[Trace]) -> dict[UUID, TraceSegment]:
    """Those whose files are still there, by id."""
    ids = {t.segment_id for t in traces}
    return TraceSegment.objects.only("uri", "aux_layer_ids").filter(expired_at=None).in_bulk(ids)


def source_fields(trace: Trace, segments: dict[UUID, TraceSegment]) -> dict[str, object]:
    """Keyword arguments of training_worker.config.TraceSource, which only a process with torch may import."""
    segment = segments.get(trace.segment_id)
    return {
        "trace_id": trace.trace_id.hex,
        "domain": trace.domain,
        "tokens": tuple(trace.tokens),
        "prompt_len": trace.prompt_len,
        "temperature": trace.temperature,
        "steps": unpack_steps(trace.steps),
        "segment_uri": segment.uri if segment else "",
        "first_state": trace.first_state,
        "lookahead": trace.lookahead,
        "aux_layer_ids": tuple(segment.aux_layer_ids) if segment else (),
    }
