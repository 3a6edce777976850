"""Sums over replayed held-out traces, per domain and over all of them; pure functions.

Held-out traces are of hours, and about as many of each domain. Where ``shares`` of the traffic are given, domains count
by these instead: a trace of a domain with the share s and n of N traces has the weight w = s N / n. It adds w x and w y
to the sums and w^2 x^2, w^2 y^2, w^2 x y to the second moments, which is what the variance of a weighted ratio needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add

from aurora_web.metrics.ratios import NOTHING, CrossMoments, Interval, Moments, ratio_of_ratios
from speculators.records import DomainScore


def replay_moments(score: DomainScore, weight: float = 1.0) -> Moments:
    """x = accept tokens, y = verify steps, of one held-out trace, each of this weight."""
    return Moments(
        score.num_traces,
        weight * score.num_accept_tokens,
        weight * score.num_verify_steps,
        weight**2 * score.sum_xx,
        weight**2 * score.sum_yy,
        weight**2 * score.sum_xy,
    )


def sum_moments(scores: Sequence[DomainScore], shares: Mapping[str, float]) -> Moments:
    """Over these domains, by their ``shares``; {} = every trace alike."""
    return reduce(add, (replay_moments(score, weight) for score, weight in _weighted(scores, shares)), NOTHING)


def replay_gain(
    candidates: Sequence[DomainScore], lives: Sequence[DomainScore], shares: Mapping[str, float]
) -> Interval:
    """Gain of accept length over these domains: paired where both sides replayed the same traces."""
    candidate, live = sum_moments(candidates, shares), sum_moments(lives, shares)
    if not candidate.ratio or not live.ratio:
        return Interval(None, None, None, "the two replays have no verify steps of one largest lookahead")
    pairs = _sum_pairs(_weighted(candidates, shares))
    interval = ratio_of_ratios(candidate, live, a_name="candidate", b_name="live", unit="traces", pairs=pairs)
    if interval.value is None or interval.low is None or interval.high is None:
        return Interval(candidate.ratio / live.ratio - 1, None, None, interval.reason)
    return Interval(interval.value - 1, interval.low - 1, interval.high - 1)


def shares_of(requests: Mapping[str, int], *sides: Iterable[DomainScore]) -> dict[str, float]:
    """Each domain's share of ``requests``, of those domains that every side has replayed; {} where there were none."""
    replayed = set.intersection(*({score.domain for score in side} for side in sides))
    total = sum(requests.get(domain, 0) for domain in replayed)
    return {domain: requests.get(domain, 0) / total for domain in replayed} if total else {}


def _weighted(scores: Sequence[DomainScore], shares: Mapping[str, float]) -> list[tuple[DomainScore, float]]:
    """Scores with the weight of each of their traces; those that count nothing are left out."""
    if not shares:
        return [(score, 1.0) for score in scores]
    counted = [score for score in scores if shares.get(score.domain) and score.num_traces]
    total = sum(score.num_traces for score in counted)
    return [(score, shares[score.domain] * total / score.num_traces) for score in counted]


def _sum_pairs(weighted: Sequence[tuple[DomainScore, float]]) -> CrossMoments:
    """Both sides of a pair have the candidate's weight: of the same traces there are as many on either."""
    return CrossMoments(
        n=sum(s.num_paired for s, _ in weighted),
        sum_xu=sum(w**2 * s.sum_xu for s, w in weighted),
        sum_xv=sum(w**2 * s.sum_xv for s, w in weighted),
        sum_yu=sum(w**2 * s.sum_yu for s, w in weighted),
        sum_yv=sum(w**2 * s.sum_yv for s, w in weighted),
    )
