"""What a step costs on this machine: measured once at start, by batch size and lookahead.

All numbers are seconds of whole steps (draft, then target), as they follow each other at work: the draft's weights push
the target's out of the cache, so parts measured one by one would flatter speculation. The least of several repeats, so
that a busy neighbour does not bend the ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from serving.draft_runner import DraftRunner
from serving.model.attention import Span
from serving.model.decoder import Decoder

CONTEXT = 192  # positions in the cache while measuring
ROUNDS = 2
REPEATS = 2  # in a row; the first one warms the caches and does not count
LOOKAHEADS = (0, 1, 2, 3, 4, 6, 8)  # measured ones; between them a straight line, beyond the last in proportion


@dataclass(frozen=True, slots=True)
class Costs:
    """``step[b][k]``: one step of b requests with lookahead k, for the measured b and k."""

    step: dict[int, dict[int, float]]

    def by_lookahead(self, batch_size: int, max_lookahead: int) -> list[float]:
        """Seconds of one step with lookahead 0 .. max_lookahead."""
        bucket = min((b for b in self.step if b >= batch_size), default=max(self.step))
        return [_between(self.step[bucket], lookahead) for lookahead in range(max_lookahead + 1)]

    def in_words(self) -> str:
        """The ratios at batch 1, for the log."""
        plain = self.step[1][0]
        ratios = ", ".join(f"{lookahead}: {seconds / plain:.2f}" for lookahead, seconds in self.step[1].items())
        return f"a plain step takes {plain * 1e3:.1f} ms; relative to it, by lookahead, {ratios}"


def _between(by_lookahead: dict[int, float], lookahead: int) -> float:
    """Straight lines between measured points; beyond the last one, in proportion."""
    low = max(k for k in by_lookahead if k <= lookahead)
    high = min((k for k in by_lookahead if k >= lookahead), default=low)
    if high == low:
        return by_lookahead[low] * (lookahead + 1) / (low + 1)
    share = (lookahead - low) / (high - low)
    return by_lookahead[low] + (by_lookahead[high] - by_lookahead[low]) * share


def buckets(max_requests: int) -> list[int]:
    """1, 2, 4, ... up to ``max_requests``, which comes last."""
    sizes = [1]
    while sizes[-1] < max_requests:
        sizes.append(min(sizes[-1] * 2, max_requests))
    return sizes


def measure(decoder: Decoder, draft: DraftRunner, max_requests: int) -> Costs:
    """Time steps on scratch slots; call before any request runs."""
    measured = [k for k in LOOKAHEADS if k + 3 <= decoder.max_len]
    start = max(1, min(CONTEXT, decoder.max_len - max(measured) - 2))
    best: dict[int, dict[int, float]] = {size: {} for size in buckets(max_requests)}
    for _ in range(ROUNDS):
        for size, by_lookahead in best.items():
            for lookahead in measured:
                seconds = _time(_step(decoder, draft, size, lookahead, start))
                by_lookahead[lookahead] = min(seconds, by_lookahead.get(lookahead, seconds))
    return Costs(best)


def _time(step: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _step(decoder: Decoder, draft: DraftRunner, size: int, lookahead: int, start: int) -> Callable[[], object]:
    """A step as the engine does it: the draft over two new positions, its chain, the target over all rows."""
    slots = range(size)
    features = torch.zeros(2 * size, len(draft.config.aux_layer_ids) * draft.config.target_hidden_size)
    pairs, ones = torch.ones(2 * size, dtype=torch.int64), torch.ones(size, dtype=torch.int64)
    rows = torch.ones(size * (lookahead + 1), dtype=torch.int64)

    def step() -> None:
        if lookahead:
            guess = draft.extend(features, pairs, [Span(slot, start - 1, 2) for slot in slots])
            guess.logits.argmax(-1).tolist()
        for depth in range(lookahead - 1):
            guess = draft.chain(guess.hidden, ones, [Span(slot, start + 1 + depth, 1) for slot in slots])
            guess.logits.argmax(-1).tolist()
        states = decoder.forward(rows, [Span(slot, start, lookahead + 1) for slot in slots])
        decoder.logits(states.final).argmax(-1).tolist()

    return step
