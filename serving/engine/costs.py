"""What a step costs on this machine: a few parts measured at start, and put right by every step after.

A step of b requests is the target's pass over their last tokens and all their drafts, and, where any request drafts,
passes of the draft: a first one that takes in what was committed since, and one for every further depth, whoever takes
part in it. So

    seconds = g V(b) + h (V(b + drafts) - V(b)) + f F(b) + d D(b) (deepest - 1) + e P (positions taken in)

with V, F, D and P as measured at start, part by part. Parts measured one by one flatter speculation, since at work the
draft's weights push the target's out of the cache, and a busy neighbour may have bent any of them. The five factors
start at one and are filtered from the steps themselves (a Kalman filter: what the machine's speed does moves all of
them at once, and much faster than they move beside each other).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from aurora_kernels.sampling import greatest

from serving.draft_runner import DraftRunner
from serving.engine.drafting import StepCosts
from serving.model.attention import Span
from serving.model.decoder import Decoder

CONTEXT = 192  # positions in the cache while measuring
BUDGET_SECONDS = 1.0  # after the ends have been measured once, measuring goes on until then
ROUNDS = 3
ROWS_PER_REQUEST = 5  # that are measured at most
FEW, MANY = 2, 10  # positions that a first pass of the draft takes in while measuring
POSITIONS_PER_STEP = 1.5  # that a request which drafts adds between two steps, where one is chosen for
# Of the filter, per step and relative: the machine's speed, each factor beside it, and what no factor explains.
SPEED_DRIFT, FACTOR_DRIFT, NOISE = 0.02, 0.002, 0.08
LARGEST_SURPRISE = 0.25  # relative, that one step may be; with what goes beyond it, something else held the step up
# How wrong each factor may be at start, and how certain it stays at most: plain pass, more rows, first pass, ...
UNCERTAIN = np.array([0.1, 0.4, 0.4, 0.4, 0.4])
LEAST_FACTOR, LARGEST_FACTOR = 0.1, 10.0
BATCH_SIZE_RATE = 0.01  # per step: the last hundred count
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds, as measured."""

    verify: dict[int, float]  # the target's pass, by rows of all requests together
    first: dict[int, float]  # the draft's first pass by batch size, without what it takes in
    further: dict[int, float]  # one more depth of drafts, by batch size
    position: float  # that the first pass takes in


class Costs:
    """What steps cost now."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.factors: Array = np.ones(5)
        self._covariance: Array = np.diag(UNCERTAIN**2)
        self._batch_size = 1.0  # of late

    def of_batch(self, batch_size: int, max_drafts: int) -> StepCosts:
        """Of the next step of so many requests."""
        plain, more, first, further, position = self.factors
        rows = [_at(self.parts.verify, batch_size + num) for num in range(max_drafts + 1)]
        return StepCosts(
            verify=[float(plain * rows[0] + more * (each - rows[0])) for each in rows],
            first=float(first * _at(self.parts.first, batch_size)),
            further=float(further * _at(self.parts.further, batch_size)),
            request=float(position * self.parts.position * POSITIONS_PER_STEP),
            position=float(position * self.parts.position),
        )

    def of_late(self, max_lookahead: int) -> tuple[float, ...]:
        """Seconds of one step with lookahead 0 .. max_lookahead for everybody, at the batch size of late."""
        size = max(1, round(self._batch_size))
        costs = self.of_batch(size, size * max_lookahead)
        return tuple(costs.seconds(size * k, k, size if k else 0) for k in range(max_lookahead + 1))

    def observe(self, batch_size: int, num_drafts: int, deepest: int, num_taken_in: int, seconds: float) -> None:
        """Learn from a step. ``deepest``: drafts of the request with the most of them; 0 = nobody drafted."""
        self._batch_size += BATCH_SIZE_RATE * (batch_size - self._batch_size)
        base = _at(self.parts.verify, batch_size)
        parts = np.array(
            [
                base,
                _at(self.parts.verify, batch_size + num_drafts) - base,
                _at(self.parts.first, batch_size) if deepest else 0.0,
                _at(self.parts.further, batch_size) * max(0, deepest - 1),
                self.parts.position * num_taken_in,
            ]
        )
        expected = float(parts @ self.factors)
        surprise = min(max(seconds - expected, -LARGEST_SURPRISE * expected), LARGEST_SURPRISE * expected)
        speed, each = SPEED_DRIFT * self.factors, FACTOR_DRIFT * self.factors
        covariance = self._covariance + np.outer(speed, speed) + np.diag(each**2)
        shared = covariance @ parts
        gain = shared / (parts @ shared + (NOISE * expected) ** 2)
        self.factors = np.clip(self.factors + gain * surprise, LEAST_FACTOR, LARGEST_FACTOR)
        self._covariance = _bounded(covariance - np.outer(gain, shared), self.factors)

    def in_words(self) -> str:
        """For the log: what the parts of one request are, relative to a plain step."""
        known = self.parts.verify
        ratios = ", ".join(f"{rows}: {seconds / known[1]:.2f}" for rows, seconds in known.items())
        first, further = self.parts.first[1] / known[1], self.parts.further[1] / known[1]
        plain = f"a plain step takes {known[1] * 1e3:.1f} ms; relative to it, by tokens verified, {ratios}"
        return f"{plain}; the draft's first pass {first:.2f}, a further one {further:.2f}"


def _bounded(covariance: Array, factors: Array) -> Array:
    """No factor is ever less certain than at start: what no step tells of would else be believed to be anything."""
    scale = np.minimum(1.0, UNCERTAIN * factors / np.sqrt(np.maximum(np.diag(covariance), 1e-18)))
    bounded: Array = covariance * np.outer(scale, scale)
    return bounded


def _at(known: dict[int, float], place: int) -> float:
    """Between known places (rising) a straight line; beyond the last one, as from the last but one to it."""
    if place in known:
        return known[place]
    places = list(known)
    high = next((i for i, each in enumerate(places) if each > place), len(places) - 1)
    if high == 0:
        return known[places[0]]
    low, high = places[high - 1], places[high]
    return known[low] + (known[high] - known[low]) * (place - low) / (high - low)


def measure(decoder: Decoder, draft: DraftRunner, max_requests: int, budget_seconds: float = BUDGET_SECONDS) -> Costs:
    """Time the parts of steps on scratch slots; call before any request runs."""
    start = max(1, min(CONTEXT, decoder.max_len - MANY - 1))
    sizes = sorted({1, max_requests})
    deadline = time.perf_counter() + budget_seconds
    few = {size: _least(_first(draft, size, FEW, start)) for size in sizes}
    many = _least(_first(draft, max_requests, MANY, start))
    position = max(0.0, many - few[max_requests]) / (max_requests * (MANY - FEW))
    first = {size: max(seconds - position * size * FEW, 0.1 * seconds) for size, seconds in few.items()}
    further = {size: _least(_further(draft, size, start)) for size in sizes}
    verify: dict[int, float] = {}
    ends, between = _places(max_requests)
    for rows in (*ends, *between, *(ends + between) * (ROUNDS - 1)):
        if len(verify) >= len(ends) and time.perf_counter() > deadline:
            break
        verify[rows] = min(_time(_verify(decoder, rows, max_requests, start)), verify.get(rows, math.inf))
    return Costs(Parts(_rising(verify), first, further, position))


def _places(max_requests: int) -> tuple[list[int], list[int]]:
    """Numbers of rows that are measured: those that must be, and what lies between, by halves."""
    most = max_requests * ROWS_PER_REQUEST
    powers = [2**i for i in range(1, most.bit_length()) if 2**i < most]
    ends = sorted({1, min(most, 16), most})
    return ends, [rows for rows in sorted({*powers, 12, 24}, reverse=True) if rows < most and rows not in ends]


def _rising(known: dict[int, float]) -> dict[int, float]:
    """More rows never cost less: where they seem to, something else held up the pass with fewer."""
    least, found = math.inf, {}
    for rows in sorted(known, reverse=True):
        least = found[rows] = min(least, known[rows])
    return dict(sorted(found.items()))


def _time(work: Callable[[], object]) -> float:
    """The second of two in a row: the first one warms the caches."""
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _least(work: Callable[[], object]) -> float:
    return min(_time(work) for _ in range(ROUNDS))


def _first(draft: DraftRunner, size: int, num: int, start: int) -> Callable[[], object]:
    """The draft's pass over ``num`` new positions of every request."""
    features = torch.zeros(num * size, len(draft.config.aux_layer_ids) * draft.config.target_hidden_size)
    ids = torch.ones(num * size, dtype=torch.int64)
    spans = [Span(slot, start - 1, num) for slot in range(size)]
    return lambda: greatest(draft.extend(features, ids, spans).logits)


def _further(draft: DraftRunner, size: int, start: int) -> Callable[[], object]:
    hidden, ones = torch.zeros(size, draft.config.hidden_size), torch.ones(size, dtype=torch.int64)
    spans = [Span(slot, start, 1) for slot in range(size)]
    return lambda: greatest(draft.chain(hidden, ones, spans).logits)


def _verify(decoder: Decoder, num_rows: int, max_requests: int, start: int) -> Callable[[], object]:
    """The target's pass over so many rows, of as many requests as there can be."""
    size = min(num_rows, max_requests)
    counts = [num_rows // size + (slot < num_rows % size) for slot in range(size)]
    ids, spans = torch.ones(num_rows, dtype=torch.int64), [Span(slot, start, num) for slot, num in enumerate(counts)]
    return lambda: greatest(decoder.logits(decoder.forward(ids, spans).final))
