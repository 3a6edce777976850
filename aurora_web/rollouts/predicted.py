"""What a draft would do to speed: its acceptance by replay, at the costs of steps that a replica has measured.

An estimate: the replay went at the largest lookahead, and at work an engine chooses lookaheads for a batch together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aurora_web.registry.models import Target
from aurora_web.rollouts.models import Replica
from speculators.records import DomainScore


def step_seconds(target: Target) -> list[float]:
    """Seconds of one step by lookahead, from the replica that was seen last; [] where none has measured them."""
    known = target.replicas.filter(is_alive=True).exclude(step_seconds=[]).order_by("-seen_at")
    return known.values_list("step_seconds", flat=True).first() or []


def longer_by_a_draft(replicas: Iterable[Replica]) -> float | None:
    """By how much of itself a step grows when each request drafts a token: the share of first drafts that must pass.

    As the replica that was seen last measures it, with as many requests at once as of late; None where none does.
    """
    measured = [each for each in replicas if each.is_alive and len(each.step_seconds) > 1 and each.step_seconds[0]]
    if not measured:
        return None
    plain, drafting = max(measured, key=lambda each: each.seen_at).step_seconds[:2]
    return float(drafting / plain) - 1


def predicted_speedup(
    scores: Sequence[DomainScore], shares: Mapping[str, float], seconds: Sequence[float]
) -> float | None:
    """Tokens/s relative to no speculation, each domain at the lookahead that is fastest for it.

    Domains count by their ``shares`` of the requests, {} = by their traces. None without costs, without a replay, or
    from a report that has no counts by position.
    """
    weighted = [(score, shares.get(score.domain, 0.0) if shares else float(score.num_traces)) for score in scores]
    weighted = [(score, weight) for score, weight in weighted if weight]
    if not seconds or not weighted or not all(score.proposed_by_position for score, _ in weighted):
        return None
    per_token = sum(weight * _seconds_per_token(score, seconds) for score, weight in weighted)
    return seconds[0] * sum(weight for _, weight in weighted) / per_token


def _seconds_per_token(score: DomainScore, seconds: Sequence[float]) -> float:
    tokens, best = 1.0, seconds[0]
    by_position = zip(score.proposed_by_position, score.correct_by_position, strict=True)
    for (proposed, correct), cost in zip(by_position, seconds[1:], strict=False):
        tokens += correct / proposed if proposed else 0.0
        best = min(best, cost / tokens)
    return best
