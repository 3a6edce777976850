"""Which place of the draft's chain is right how often: counted in the newest traces of a version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from aurora_web.registry.models import Target
from aurora_web.traces.codec import unpack_pairs
from aurora_web.traces.models import Trace

SAMPLE = 200  # traces of each version


@dataclass(frozen=True, slots=True)
class Positions:
    """Counts by place of the chain (0 = the first draft); a draft counts as correct when every earlier one was."""

    num_traces: int
    proposed: tuple[int, ...]
    correct: tuple[int, ...]

    @property
    def rates(self) -> list[float]:
        """Share of the drafts proposed at each place that were correct."""
        return [right / asked for right, asked in zip(self.correct, self.proposed, strict=True) if asked]


def count_positions(traces: Sequence[Sequence[tuple[int, Sequence[int]]]]) -> Positions:
    """Sum the steps, (num_correct_drafts, proposed), of these traces."""
    alike = Counter((len(proposed), num_correct) for steps in traces for num_correct, proposed in steps)
    places = range(max((length for length, _ in alike), default=0))
    proposed = tuple(sum(n for (length, _), n in alike.items() if place < length) for place in places)
    correct = tuple(sum(n for (length, right), n in alike.items() if place < min(length, right)) for place in places)
    return Positions(len(traces), proposed, correct)


def measured_positions(target: Target, version: int, sample: int = SAMPLE) -> Positions:
    """From the newest ``sample`` traces that ``version`` served."""
    newest = Trace.objects.filter(target=target, version=version).order_by("-started_at")
    return count_positions([unpack_pairs(packed) for packed in newest.values_list("steps", flat=True)[:sample]])
