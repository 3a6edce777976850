"""Is the canary as good as the others? A pure function of what both sides measured in the same period.

Tokens/s are compared within each domain and batch size, accept length within each domain; both sides are of the same
minutes, so a shift of the traffic meets both. People see 95 % intervals. What lies beyond the tolerance by these only
*seems* worse, and keeps the canary from being promoted: a canary is looked at again and again, in many comparisons, and
at 95 % some of them would show a loss by chance.

It is rolled back for what is certain: one that is equal is rolled back by chance in CHANCE of all canaries at most.
Half of that is for the last look, at the whole, by its 95 % interval. The other half is shared alike by all other
comparisons (Bonferroni): half of it by those of the domains at the last look, half by those of the looks before, which
are counted by the minute, since what a few seconds add is nearly the same look again. A collapse waits for none of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from statistics import NormalDist

from aurora_web.metrics.by_replica import ReplicaSums
from aurora_web.metrics.ratios import NOTHING, Z95, Interval, Moments, ratio_of_ratios, stratified
from aurora_web.numbers import percent, signed_percent

MIN_COLLAPSE_STEPS = 200
MIN_DOMAIN_REQUESTS = 20  # on either side; a domain with fewer is shown, not judged
SPEED_TOLERANCE = 0.02  # replicas of one version differ by about so much
PATIENCE = 3.0  # times canary_minutes until the last look, which decides
CHANCE = 0.05  # that an equal canary is rolled back
MOST_DAYS = 30  # that one on little traffic waits for its requests; count rows are kept for it so long


class Action(StrEnum):
    WAIT = "wait"
    PROMOTE = "promote"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True)
class CanaryPolicy:
    """What a target asks of a canary."""

    minutes: float
    min_requests: int
    domain_tolerance: float  # relative loss that one domain may take
    min_accept_length: float  # collapse threshold; 0 = none


@dataclass(frozen=True, slots=True)
class Compared:
    """Canary against the others in one domain ("" = all); ratios are canary over others."""

    domain: str
    canary_requests: int
    other_requests: int
    canary_tokens_per_second: float | None
    other_tokens_per_second: float | None
    canary_accept_length: float | None
    other_accept_length: float | None
    speed: Interval
    accept: Interval
    speed_at_most: float | None  # the upper end of an interval that is certain enough to end the canary
    accept_at_most: float | None
    seems_worse: bool  # by the 95 % intervals
    is_worse: bool  # certainly


@dataclass(frozen=True, slots=True)
class CanaryVerdict:
    """What to do, and why, in sentences."""

    action: Action
    reasons: tuple[str, ...]
    total: Compared
    domains: tuple[Compared, ...]
    one_in: int  # comparisons, of which chance shows one to be worse where nothing is: what ``is_worse`` asks for

    @property
    def rows(self) -> tuple[Compared, ...]:
        """Everything, then each domain."""
        return (self.total, *self.domains)


def judge(
    canary: Sequence[ReplicaSums], others: Sequence[ReplicaSums], policy: CanaryPolicy, elapsed_seconds: float
) -> CanaryVerdict:
    """Promote, roll back, or wait for more."""
    minutes = elapsed_seconds / 60
    names = sorted({row.domain for row in (*canary, *others)})
    sides = [(name, _of(canary, name), _of(others, name)) for name in names]
    chance = _chance(sum(_is_judged(ours, theirs) for _, ours, theirs in sides), policy, minutes)
    z = NormalDist().inv_cdf(1 - chance)
    domains = tuple(_compare(*side, policy, z) for side in sides)
    total = _compare("", canary, others, policy, z)
    action, reasons = _decide(total, domains, _sum(canary, "accept"), policy, minutes)
    return CanaryVerdict(action, tuple(reasons), total, domains, round(1 / chance))


def _is_last(policy: CanaryPolicy, minutes: float) -> bool:
    return minutes >= PATIENCE * policy.minutes


def _chance(num_domains: int, policy: CanaryPolicy, minutes: float) -> float:
    """That one comparison of one look shows a loss where there is none; of tokens/s and accept length, of all too."""
    num_looks = 1 if _is_last(policy, minutes) else max(math.ceil(PATIENCE * policy.minutes), 1)
    return CHANCE / 4 / (num_looks * 2 * (num_domains + 1))


def _decide(
    total: Compared, domains: Sequence[Compared], accept: Moments, policy: CanaryPolicy, minutes: float
) -> tuple[Action, list[str]]:
    if accept.sum_y >= MIN_COLLAPSE_STEPS and _has_collapsed(accept.ratio or 0.0, total, policy):
        least = f"below {policy.min_accept_length:.2f}"
        return Action.ROLL_BACK, [
            f"It has collapsed: accept length {accept.ratio:.2f} over {accept.sum_y:,.0f} steps, {least}."
        ]
    if min(total.canary_requests, total.other_requests) < policy.min_requests:
        said = (
            f"{total.canary_requests} requests on the canary and {total.other_requests} on the others; "
            f"the policy asks for {policy.min_requests} on either side."
        )
        is_over = minutes >= MOST_DAYS * 24 * 60
        return (Action.ROLL_BACK, [f"After {MOST_DAYS} days: {said}"]) if is_over else (Action.WAIT, [said])
    worse = [domain for domain in domains if domain.is_worse] or [total] * total.is_worse
    if worse:
        return Action.ROLL_BACK, [_words(row, "is", policy) for row in worse]
    seeming = _seeming(total, domains, policy)
    if minutes < policy.minutes:
        return Action.WAIT, [f"{minutes:.1f} of {policy.minutes:g} minutes have passed.", *seeming, *_said(total)]
    return _weigh(total, seeming, policy, minutes)


def _has_collapsed(accept_length: float, total: Compared, policy: CanaryPolicy) -> bool:
    """Below the threshold, and the others have not come down with it: a shift of the traffic is no fault of a draft."""
    of_others = total.accept.value
    return accept_length < policy.min_accept_length and (of_others is None or of_others < 1 - policy.domain_tolerance)


def _seeming(total: Compared, domains: Sequence[Compared], policy: CanaryPolicy) -> list[str]:
    """What seems worse, by the intervals that people see."""
    is_slower = total.speed.high is not None and total.speed.high < 1 - SPEED_TOLERANCE
    return ["It seems slower."] * is_slower + [_words(row, "seems", policy) for row in domains if row.seems_worse]


def _weigh(total: Compared, seeming: list[str], policy: CanaryPolicy, minutes: float) -> tuple[Action, list[str]]:
    """The time is up: promoted when nothing seems worse, else decided by what is certain, at last by the last look."""
    speed, is_last = total.speed, _is_last(policy, minutes)
    said = _said(total)
    if speed.value is None or speed.low is None or speed.high is None:
        reason = f"The speeds cannot be compared{'' if is_last else ' yet'}: {speed.reason}."
        no_loss = f"After {minutes:.0f} minutes no loss is certain."
        return (Action.PROMOTE, [no_loss, reason, *said]) if is_last else (Action.WAIT, [reason])
    highest = speed.high if is_last or total.speed_at_most is None else total.speed_at_most
    if highest < 1 - SPEED_TOLERANCE:
        return Action.ROLL_BACK, ["It is slower.", *said]
    if speed.low >= 1 - policy.domain_tolerance and not seeming:
        return Action.PROMOTE, said
    if is_last:
        return Action.PROMOTE, [f"After {minutes:.0f} minutes no loss is certain.", *said]
    return Action.WAIT, [*(seeming or ["The interval is still too wide to decide."]), *said]


def _said(compared: Compared) -> list[str]:
    said = []
    for what, ratio, ours, theirs, digits in (
        ("tokens/s", compared.speed, compared.canary_tokens_per_second, compared.other_tokens_per_second, 0),
        ("accept length", compared.accept, compared.canary_accept_length, compared.other_accept_length, 2),
    ):
        if ratio.value is not None and ratio.low is not None and ratio.high is not None:
            middle, low, high = (signed_percent(each - 1) for each in (ratio.value, ratio.low, ratio.high))
            sides = f"{ours:.{digits}f} on the canary, {theirs:.{digits}f} on the others"
            said.append(f"{what} {sides} ({middle}, 95 % between {low} and {high}).")
    return [sentence[0].upper() + sentence[1:] for sentence in said]


def _words(row: Compared, verb: str, policy: CanaryPolicy) -> str:
    """sql is worse than the tolerance of 10 %: Tokens/s 120 on the canary, ..."""
    what = f"{row.domain or 'All together'} {verb} worse than the tolerance of {percent(policy.domain_tolerance, 0)}"
    return f"{what}: " + " ".join(_said(row))


def _is_judged(canary: Sequence[ReplicaSums], others: Sequence[ReplicaSums]) -> bool:
    return min(_num_requests(canary), _num_requests(others)) >= MIN_DOMAIN_REQUESTS


def _num_requests(rows: Sequence[ReplicaSums]) -> int:
    return sum(row.num_requests for row in rows)


def _compare(
    name: str, canary: Sequence[ReplicaSums], others: Sequence[ReplicaSums], policy: CanaryPolicy, z: float
) -> Compared:
    """``z``: standard errors that are certain enough."""
    speed, accept = (_stratified(canary, others, what) for what in ("speed", "accept"))
    at_most = [_stratified(canary, others, what, z).high for what in ("speed", "accept")]
    is_judged, least = _is_judged(canary, others), 1 - policy.domain_tolerance

    def is_beyond(highest: Sequence[float | None]) -> bool:
        return is_judged and any(each is not None and each < least for each in highest)

    return Compared(
        domain=name,
        canary_requests=_num_requests(canary),
        other_requests=_num_requests(others),
        canary_tokens_per_second=_sum(canary, "speed").ratio,
        other_tokens_per_second=_sum(others, "speed").ratio,
        canary_accept_length=_sum(canary, "accept").ratio,
        other_accept_length=_sum(others, "accept").ratio,
        speed=speed,
        accept=accept,
        speed_at_most=at_most[0],
        accept_at_most=at_most[1],
        seems_worse=is_beyond([speed.high, accept.high]),
        is_worse=is_beyond(at_most),
    )


def _stratified(canary: Sequence[ReplicaSums], others: Sequence[ReplicaSums], what: str, z: float = Z95) -> Interval:
    """Canary over others within each stratum, weighted by the canary's tokens."""
    unit = "requests" if what == "speed" else "reports"
    compared = []
    for stratum in {_stratum(row, what): None for row in (*canary, *others)}:
        ours, theirs = (
            _sum([row for row in side if _stratum(row, what) == stratum], what) for side in (canary, others)
        )
        ratio = ratio_of_ratios(ours, theirs, a_name="canary", b_name="other", unit=unit, z=z)
        compared.append((ratio, float(ours.sum_x)))
    return stratified(sorted(compared, key=lambda pair: -pair[1]))


def _stratum(row: ReplicaSums, what: str) -> tuple[str, int]:
    """Only tokens/s depend on the batch size."""
    return row.domain, row.batch_bucket if what == "speed" else 0


def _sum(rows: Sequence[ReplicaSums], what: str) -> Moments:
    return reduce(lambda total, row: total + (row.speed if what == "speed" else row.accept), rows, NOTHING)


def _of(rows: Sequence[ReplicaSums], domain: str) -> list[ReplicaSums]:
    return [row for row in rows if row.domain == domain]
