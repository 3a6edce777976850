"""Which of the traces that a slice is given make a pass, and an evaluation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

from training_worker.config import TraceSource

REPLAY_PER_FRESH = 4  # old traces in a pass for each fresh one ...
REPLAY_PER_PASS = 48  # ... and at least so many
KEPT_PER_GONE = 16  # old traces in a pass for each whose states are gone: recomputing takes longer than learning


class OfDomain(Protocol):
    """A trace or its example."""

    @property
    def domain(self) -> str: ...


Drawn = TypeVar("Drawn", bound=OfDomain)


def with_few(kept: Sequence[Drawn], gone: Sequence[Drawn], rng: random.Random) -> list[Drawn]:
    """The old traces of a pass: those whose states are at hand, and few of the others, drawn anew.

    Where hardly any are at hand, as many of the others as make a pass.
    """
    num = max(len(kept) // KEPT_PER_GONE, REPLAY_PER_PASS - len(kept))
    return [*kept, *rng.sample(list(gone), min(len(gone), num))]


def one_pass(fresh: Sequence[Drawn], old: Sequence[Drawn], rng: random.Random) -> list[Drawn]:
    """Every fresh trace and a sample of the old ones, drawn anew for each pass: no slice learns one sample by heart.

    Domains that the fresh traces have none of get half of a pass at most, so that a shift of the traffic weighs in at
    once and what was learnt before is still kept up.
    """
    wanted = max(REPLAY_PER_PASS, REPLAY_PER_FRESH * len(fresh))
    chosen = rng.sample(list(old), min(len(old), wanted))
    if not fresh:
        return chosen
    domains = {each.domain for each in fresh}
    current = [*fresh, *(each for each in chosen if each.domain in domains)]
    former = [each for each in chosen if each.domain not in domains]
    return [*current, *former[: len(current)]]


def within(sources: Sequence[TraceSource], max_tokens: int) -> list[TraceSource]:
    """Traces of all domains in turn, in the order given, until the tokens are used up; at least one per domain."""
    queues: dict[str, list[TraceSource]] = {}
    for source in sources:
        queues.setdefault(source.domain, []).append(source)
    chosen: list[TraceSource] = []
    num_tokens = 0
    for turn in range(max((len(q) for q in queues.values()), default=0)):
        for queue in queues.values():
            if turn < len(queue) and (turn == 0 or num_tokens < max_tokens):
                chosen.append(queue[turn])
                num_tokens += len(queue[turn].tokens)
    return chosen
