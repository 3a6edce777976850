"""What a step costs on this machine: measured at start, by batch size and lookahead, and refined by every step after.

All numbers are seconds of whole steps (draft, then target), as they follow each other at work: the draft's weights push
the target's out of the cache, so parts measured one by one would flatter speculation. At start the least of the
repeats counts, so that a busy neighbour does not bend the ratios; how many there are is bounded by time, since a step
of a large target takes long and nobody should wait for it. At work the ratios follow slowly, the machine's speed fast.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from aurora_kernels.sampling import greatest

from serving.draft_runner import DraftRunner
from serving.engine.config import MAX_LOOKAHEAD
from serving.model.attention import Span
from serving.model.decoder import Decoder

CONTEXT = 192  # positions in the cache while measuring
BUDGET_SECONDS = 1.0  # after the corners have been measured once, measuring goes on until then
ROUNDS = 2
CORNERS = (0, 4)  # lookaheads that are measured at the least and the largest batch whatever it takes
LOOKAHEADS = (*CORNERS, 2, 1, 8, 6, 3)  # in the order of use; between two a straight line, beyond in proportion
SPEED_RATE = 0.2  # share of a surprise that is taken for the machine's speed,
RATIO_RATE = 0.04  # and for the cost of this lookahead beside the others;
FIRST_RATIO_RATE = 0.25  # the first time, then falling to the one above: a busy start measures badly
NEIGHBOUR_SHARE = 0.5  # of that goes to the next lookahead on either side, and so on
FORGETTING = 0.0005  # of what was learnt at work, with each step: a lookahead that nobody tries is as it was measured
LARGEST_SURPRISE = math.log(1.25)  # that one step may be; with what goes beyond it, something else held the step up
WARM_UP = 20  # steps at the beginning that tell the speed alone


class Costs:
    """``step[b][k]``: one step of b requests with lookahead k, as measured; what was learnt since lies beside it."""

    def __init__(self, step: dict[int, dict[int, float]]) -> None:
        self.step = step
        self._speed = 0.0  # log of what steps take now, relative to ``step``
        self._num_seen = 0
        self._learnt = {size: [0.0] * (MAX_LOOKAHEAD + 1) for size in step}  # logs, by lookahead
        self._num_learnt = {size: [0, 0] for size in step}  # steps without and with drafts

    def by_lookahead(self, batch_size: int, max_lookahead: int) -> list[float]:
        """Seconds of one step with lookahead 0 .. max_lookahead."""
        size = self._bucket(batch_size)
        return [self._at(size, lookahead) for lookahead in range(max_lookahead + 1)]

    def by_drafts(self, batch_size: int, max_drafts: int) -> list[float]:
        """Seconds of one step with 0 .. max_drafts drafts of all its requests together."""
        places = self.by_lookahead(batch_size, max_drafts // batch_size + 2)
        return [_mixed(places, num / batch_size) for num in range(max_drafts + 1)]

    def observe(self, lookaheads: Sequence[int], seconds: float) -> None:
        """Learn from a step of requests with these lookaheads: what counts is how many drafts they make on average."""
        size, mean = self._bucket(len(lookaheads)), sum(lookaheads) / len(lookaheads)
        surprise = math.log(seconds / _mixed(self.by_lookahead(size, math.floor(mean) + 2), mean))
        self._num_seen += 1
        if self._num_seen <= WARM_UP:
            self._speed += surprise / self._num_seen
            return
        surprise = min(max(surprise, -LARGEST_SURPRISE), LARGEST_SURPRISE)
        self._speed += SPEED_RATE * surprise
        learnt = self._learnt[size]
        for place in range(len(learnt)):
            learnt[place] *= 1 - FORGETTING
        self._num_learnt[size][mean > 0] += 1
        rate = max(RATIO_RATE, FIRST_RATIO_RATE / self._num_learnt[size][mean > 0])
        if mean == 0:
            learnt[0] += rate * surprise
            return
        for place in range(1, len(learnt)):
            learnt[place] += rate * surprise * NEIGHBOUR_SHARE ** abs(place - max(1.0, mean))

    def in_words(self) -> str:
        """The ratios at batch 1, for the log."""
        known = self.step[1]
        ratios = ", ".join(f"{lookahead}: {known[lookahead] / known[0]:.2f}" for lookahead in sorted(known))
        return f"a plain step takes {known[0] * 1e3:.1f} ms; relative to it, by lookahead, {ratios}"

    def _at(self, size: int, lookahead: int) -> float:
        learnt = self._learnt[size][min(lookahead, MAX_LOOKAHEAD)]
        return _between(self.step[size], lookahead) * math.exp(learnt + self._speed)

    def _bucket(self, batch_size: int) -> int:
        return min((b for b in self.step if b >= batch_size), default=max(self.step))


def _mixed(places: Sequence[float], mean: float) -> float:
    """Seconds of a step whose requests make ``mean`` drafts each on average, between those of equal lookaheads.

    Below one, from the line above it: whoever drafts in a batch, the draft's weights are read.
    """
    if 0 < mean < 1:
        return max(places[0], places[1] - (1 - mean) * (places[2] - places[1]))
    low = math.floor(mean)
    return places[low] + (places[low + 1] - places[low]) * (mean - low)


def _between(known: dict[int, float], place: float) -> float:
    """Straight lines between known places; beyond the last one, in proportion to the rows."""
    low = max(k for k in known if k <= place)
    high = min((k for k in known if k >= place), default=low)
    if high == low:
        return known[low] * (place + 1) / (low + 1)
    share = (place - low) / (high - low)
    return known[low] + (known[high] - known[low]) * share


def buckets(max_requests: int) -> list[int]:
    """1, 2, 4, ... up to ``max_requests``, which comes last."""
    sizes = [1]
    while sizes[-1] < max_requests:
        sizes.append(min(sizes[-1] * 2, max_requests))
    return sizes


def measure(decoder: Decoder, draft: DraftRunner, max_requests: int, budget_seconds: float = BUDGET_SECONDS) -> Costs:
    """Time steps on scratch slots; call before any request runs."""
    measured = [k for k in LOOKAHEADS if k + 3 <= decoder.max_len]
    start = max(1, min(CONTEXT, decoder.max_len - max(measured) - 2))
    sizes = buckets(max_requests)
    best: dict[int, dict[int, float]] = {}
    deadline = time.perf_counter() + budget_seconds
    for size, lookahead in _order(sizes, measured):
        is_known = all(k in best.get(b, {}) for b in (sizes[0], sizes[-1]) for k in measured if k in CORNERS)
        if is_known and time.perf_counter() > deadline:
            break
        seconds = _time(_step(decoder, draft, size, lookahead, start))
        known = best.setdefault(size, {})
        known[lookahead] = min(seconds, known.get(lookahead, seconds))
    rising = {size: _rising(known) for size, known in best.items()}
    return Costs({size: rising.get(size) or _between_sizes(rising, size) for size in sizes})


def _rising(known: dict[int, float]) -> dict[int, float]:
    """More drafts never cost less: where they seem to, something else held up the step with fewer."""
    ordered = sorted(known)
    return dict(zip(ordered, itertools.accumulate((known[k] for k in ordered), max), strict=True))


def _order(sizes: list[int], lookaheads: list[int]) -> Iterator[tuple[int, int]]:
    """(batch size, lookahead), what tells most first: the corners of the grid, then its sides, then the rest; again."""
    outer = sorted({sizes[0], sizes[-1]})
    inner = [size for size in sizes if size not in outer]
    for _ in range(ROUNDS):
        yield from ((size, k) for k in lookaheads for size in outer)
        yield from ((size, k) for size in inner for k in lookaheads)


def _between_sizes(known: dict[int, dict[int, float]], size: int) -> dict[int, float]:
    """A batch size that there was no time for, from those beside it."""
    low, high = max(b for b in known if b < size), min(b for b in known if b > size)
    share = (size - low) / (high - low)
    return {k: known[low][k] + (known[high][k] - known[low][k]) * share for k in known[low] if k in known[high]}


def _time(step: Callable[[], object]) -> float:
    """The second of two in a row: the first one warms the caches."""
    step()
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _step(decoder: Decoder, draft: DraftRunner, size: int, lookahead: int, start: int) -> Callable[[], object]:
    """A step as the engine does it: the draft over two new positions, its chain, the target over all rows."""
    slots = range(size)
    features = torch.zeros(2 * size, len(draft.config.aux_layer_ids) * draft.config.target_hidden_size)
    pairs, ones = torch.ones(2 * size, dtype=torch.int64), torch.ones(size, dtype=torch.int64)
    rows = torch.ones(size * (lookahead + 1), dtype=torch.int64)

    def step() -> None:
        if lookahead:
            guess = draft.extend(features, pairs, [Span(slot, start - 1, 2) for slot in slots])
            greatest(guess.logits)
        for depth in range(lookahead - 1):
            guess = draft.chain(guess.hidden, ones, [Span(slot, start + 1 + depth, 1) for slot in slots])
            greatest(guess.logits)
        states = decoder.forward(rows, [Span(slot, start, lookahead + 1) for slot in slots])
        greatest(decoder.logits(states.final))

    return step
