"""What the benchmarks compute: ratios of medians over a sliding window, when they were reached, and variety of text."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Served:
    """One answered request."""

    at: float  # seconds since the start of the run, when it was answered
    domain: str
    version: int
    is_control: bool
    tokens_per_second: float  # of engine time
    num_accept_tokens: int
    num_verify_steps: int
    output_ids: tuple[int, ...] = ()


def speedup(served: Sequence[Served]) -> float | None:
    """Median tokens/s with a speculator over median without; None where either side is missing."""
    with_draft = [each.tokens_per_second for each in served if not each.is_control]
    control = [each.tokens_per_second for each in served if each.is_control]
    return median(with_draft) / median(control) if with_draft and control else None


def accept_length(served: Sequence[Served]) -> float | None:
    """Sum of accept tokens over sum of verify steps of the speculative requests; None without any step."""
    steps = sum(each.num_verify_steps for each in served if not each.is_control)
    tokens = sum(each.num_accept_tokens for each in served if not each.is_control)
    return tokens / steps if steps else None


def windows(served: Sequence[Served], size: int) -> list[tuple[float, float]]:
    """(time, speedup) after each request, over the last ``size`` requests with and ``size`` without speculation."""
    points = []
    for end in range(1, len(served) + 1):
        recent = [[each for each in served[:end] if each.is_control == side][-size:] for side in (False, True)]
        ratio = speedup(recent[0] + recent[1])
        if ratio is not None and min(map(len, recent)) == size:
            points.append((served[end - 1].at, ratio))
    return points


def interval(turns: Sequence[Any], figure: Callable[[Sequence[Any]], float], draws: int = 2000) -> tuple[float, float]:
    """95 % interval of a figure of interleaved turns, by bootstrap over the turns (Efron's percentile interval)."""
    rng = random.Random(0)
    found = sorted(figure(rng.choices(turns, k=len(turns))) for _ in range(draws))
    return found[int(0.025 * draws)], found[int(0.975 * draws)]


def reached(points: Sequence[tuple[float, float]], threshold: float) -> float | None:
    """The first time at which the windowed speedup is at least ``threshold``; None where it never was."""
    return next((at for at, ratio in points if ratio >= threshold), None)
