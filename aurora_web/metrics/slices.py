"""Where drafts fail: accept length by domain x context length x output position, from a sample of traces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import nsmallest
from typing import Any
from uuid import UUID

from aurora_web.metrics.domains import interval_of
from aurora_web.metrics.ratios import Moments
from aurora_web.metrics.settled import settled
from aurora_web.registry.models import Target
from aurora_web.traces.codec import unpack_pairs
from aurora_web.traces.models import Trace

SAMPLE = 400  # the newest drafted traces
MIN_SLICE_TRACES = 5
MIN_SLICE_STEPS = 30
NUM_EXAMPLES = 3
CONTEXT_EDGES = (64, 256, 1024, 4096, 16384)  # tokens before the step, prompt included
POSITION_EDGES = (16, 64, 256, 1024)  # generated tokens before the step
TraceSums = list[tuple[Any, ...]]  # (context, position, accept tokens, verify steps)


@dataclass(frozen=True, slots=True)
class Slice:
    """The steps of one domain in one band of context lengths and output positions."""

    domain: str
    context: str
    position: str
    num_traces: int
    num_verify_steps: int
    accept_length: float
    low: float | None
    high: float | None
    trace_ids: tuple[str, ...]  # of the traces that are worst there, at most NUM_EXAMPLES


def band(value: int, edges: Sequence[int]) -> str:
    """70 in (64, 256) -> "64 to 255"."""
    low = 0
    for edge in edges:
        if value < edge:
            return f"{low} to {edge - 1}"
        low = edge
    return f"{low} and more"


def worst_slices(target: Target, since: datetime) -> tuple[list[Slice], int]:
    """Slices with enough steps, the lowest accept length first; and how many traces were looked at."""
    chosen = Trace.objects.filter(target=target, started_at__gte=since, num_verify_steps__gt=0, version__gt=0)
    newest = chosen.order_by("-started_at", "-trace_id").values_list("trace_id", "started_at", "domain")
    rows = list(newest[:SAMPLE])
    if not rows:
        return [], 0
    within = Trace.objects.filter(target=target, started_at__gte=rows[-1][1], started_at__lte=rows[0][1])

    def read(missing: list[UUID]) -> dict[UUID, list[tuple[Any, ...]]]:
        found = within.filter(trace_id__in=missing).values_list("trace_id", "prompt_len", "steps")
        return {trace_id: of_trace(prompt_len, unpack_pairs(steps)) for trace_id, prompt_len, steps in found}

    # What a trace holds never changes.
    sums = settled.get_each("slices", [trace_id for trace_id, _, _ in rows], read)
    ids, _, names = zip(*rows, strict=True)
    return rank(zip(ids, names, sums, strict=True)), len(rows)


def rank(traces: Iterable[tuple[UUID, str, TraceSums]]) -> list[Slice]:
    """Slices of (trace id, domain, of_trace(...)), the lowest accept length first."""
    sums: dict[tuple[str, str, str], Moments] = defaultdict(lambda: Moments(0, 0, 0, 0, 0, 0))
    inside: dict[tuple[str, str, str], list[tuple[float, int, str]]] = defaultdict(list)
    for trace_id, domain, of_one in traces:
        for context, position, tokens, count in of_one:
            key = (domain, context, position)
            sums[key] += Moments(1, tokens, count, tokens * tokens, count * count, tokens * count)
            inside[key].append((tokens / count, -count, trace_id.hex))
    found = [_slice(key, moments, inside[key]) for key, moments in sums.items()]
    kept = [s for s in found if s.num_traces >= MIN_SLICE_TRACES and s.num_verify_steps >= MIN_SLICE_STEPS]
    return sorted(kept, key=lambda s: (s.accept_length, s.domain, s.context, s.position))


def of_trace(prompt_len: int, steps: Sequence[tuple[int, Sequence[int]]]) -> TraceSums:
    """Of one trace, per (context, position); steps without drafts say nothing."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    position = 1  # the first generated token comes from the prompt's own pass
    for num_correct, proposed in steps:
        if proposed:
            key = (band(prompt_len + position, CONTEXT_EDGES), band(position, POSITION_EDGES))
            tokens, count = sums.get(key, (0, 0))
            sums[key] = (tokens + num_correct + 1, count + 1)
        position += num_correct + 1
    return [(*key, *both) for key, both in sums.items()]


def _slice(key: tuple[str, str, str], moments: Moments, inside: list[tuple[float, int, str]]) -> Slice:
    low, high = interval_of(moments)
    worst = tuple(trace_id for _, _, trace_id in nsmallest(NUM_EXAMPLES, inside))
    return Slice(*key, moments.n, int(moments.sum_y), moments.sum_x / moments.sum_y, low, high, worst)
