"""The speedup over the control and its 95 % band at every bucket of a chart, all of them at once.

The same numbers as ratios.stratified over ratios.ratio_of_ratios, one bucket at a time: a test compares them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from aurora_web.metrics.ratios import MIN_REQUESTS, Interval, Moments, ratio_of_ratios, student

NUM_SUMS = 6  # the fields of Moments
OURS, CONTROL = 0, 1
Floats = NDArray[np.float64]


def trailing_speedups(rows: Sequence[Sequence[Any]], first: int, num: int, back: int) -> list[Interval | None]:
    """Of the ``num`` buckets from number ``first``, each over the ``back`` buckets that end with it.

    ``rows``: (bucket number, domain, batch size, is_control, *Moments), to be added up. Speculative over control
    tokens/s within each domain and batch size, weighted by speculative tokens. None where nothing was measured.
    """
    if not rows:
        return [None] * num
    sums = _trailing(rows, first - back + 1, num + back - 1, back)
    is_measured = (sums[..., 0].sum(axis=(1, 2)) > 0).tolist()
    value, half = _stratified(sums)
    bands = np.stack([value, value * np.exp(-half), value * np.exp(half)], -1).tolist()
    is_known = np.isfinite(value).tolist()
    return [
        None if not is_measured[i] else Interval(*bands[i]) if is_known[i] else _unknown(sums[i]) for i in range(num)
    ]


def _trailing(rows: Sequence[Sequence[Any]], first: int, num: int, back: int) -> Floats:
    """[num - back + 1, strata, 2 sides, NUM_SUMS]; added up, never subtracted, which would cost digits."""
    columns = list(zip(*rows, strict=True))
    strata = {key: i for i, key in enumerate(sorted(set(zip(columns[1], columns[2], strict=True))))}
    place = np.array([strata[key] for key in zip(columns[1], columns[2], strict=True)])
    shape = (num, len(strata), 2)
    key = (np.array(columns[0], dtype=int) - first, place, np.array(columns[3], dtype=int))
    flat = np.ravel_multi_index(key, shape)
    added = [np.bincount(flat, np.array(column, dtype=float), math.prod(shape)) for column in columns[4:]]
    sums: Floats = np.array(added, dtype=float).T.reshape(*shape, NUM_SUMS)
    return sums if back == 1 else sliding_window_view(sums, back, axis=0).sum(-1)


def _stratified(sums: Floats) -> tuple[Floats, Floats]:
    """Value and half the band on the log scale, per bucket; NaN where no stratum is known on both sides."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = x / y
        variance = n / (n - 1) * np.maximum(xx - 2 * ratio * xy + ratio**2 * yy, 0.0) / x**2
        log = np.log(ratio[..., OURS]) - np.log(ratio[..., CONTROL])
        summed = variance.sum(-1)
        freedom = summed**2 / (variance**2 / (n - 1)).sum(-1)
        half = student(np.where(np.isfinite(freedom), freedom, n.min(-1) - 1)) * np.sqrt(summed)
        is_known = (n >= MIN_REQUESTS).all(-1) & (x > 0).all(-1) & (y > 0).all(-1)
        weight = np.where(is_known, x[..., OURS], 0.0)
        total = weight.sum(-1)
        mean = np.where(is_known, weight * log, 0.0).sum(-1) / total
        band = np.sqrt((np.where(is_known, weight * half, 0.0) ** 2).sum(-1)) / total
    return np.exp(mean), band


def _unknown(strata: Floats) -> Interval:
    """Why the stratum with most speculative tokens says nothing."""
    present = strata[strata[..., 0].any(-1)]
    ours, control = (_moments(side) for side in present[np.argmax(present[:, OURS, 1])])
    return ratio_of_ratios(ours, control, a_name="speculative", b_name="control", b_unit="blocks")


def _moments(sums: Floats) -> Moments:
    n, *rest = sums.tolist()
    return Moments(int(n), *rest)
