"""Is the canary as good as the others? A pure function of what both sides measured in the same period.

Tokens/s are compared within each domain and batch size, accept length within each domain, each with a 95 % interval;
both sides are of the same minutes, so a shift of the traffic meets both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce

from aurora_web.metrics.by_replica import ReplicaSums
from aurora_web.metrics.ratios import NOTHING, Interval, Moments, ratio_of_ratios, stratified

MIN_COLLAPSE_STEPS = 200
MIN_DOMAIN_REQUESTS = 20  # on either side; a domain with fewer is shown, not judged
SPEED_TOLERANCE = 0.02  # replicas of one version differ by about so much
PATIENCE = 3.0  # times canary_minutes until an uncertain comparison is decided by its middle


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
    is_worse: bool


@dataclass(frozen=True, slots=True)
class CanaryVerdict:
    """What to do, and why, in sentences."""

    action: Action
    reasons: tuple[str, ...]
    total: Compared
    domains: tuple[Compared, ...]

    @property
    def rows(self) -> tuple[Compared, ...]:
        """Everything, then each domain."""
        return (self.total, *self.domains)


def judge(
    canary: Sequence[ReplicaSums], others: Sequence[ReplicaSums], policy: CanaryPolicy, elapsed_seconds: float
) -> CanaryVerdict:
    """Promote, roll back, or wait for more."""
    names = sorted({row.domain for row in (*canary, *others)})
    domains = tuple(_compare(name, _of(canary, name), _of(others, name), policy) for name in names)
    total = _compare("", canary, others, policy)
    action, reasons = _decide(total, domains, _sum(canary, "accept"), policy, elapsed_seconds / 60)
    return CanaryVerdict(action, tuple(reasons), total, domains)


def _decide(
    total: Compared, domains: Sequence[Compared], accept: Moments, policy: CanaryPolicy, minutes: float
) -> tuple[Action, list[str]]:
    if accept.sum_y >= MIN_COLLAPSE_STEPS and _has_collapsed(accept.ratio or 0.0, total, policy):
        least = f"below {policy.min_accept_length:.2f}"
        return Action.ROLL_BACK, [
            f"It has collapsed: accept length {accept.ratio:.2f} over {accept.sum_y:,.0f} steps, {least}."
        ]
    if min(total.canary_requests, total.other_requests) < policy.min_requests:
        return Action.WAIT, [
            f"{total.canary_requests} requests on the canary and {total.other_requests} on the others; "
            f"the policy asks for {policy.min_requests} on either side."
        ]
    worse = [_worse(domain, policy) for domain in domains if domain.is_worse]
    if worse:
        return Action.ROLL_BACK, worse
    if minutes < policy.minutes:
        return Action.WAIT, [f"{minutes:.1f} of {policy.minutes:g} minutes have passed.", *_said(total)]
    return _weigh(total, policy, minutes)


def _has_collapsed(accept_length: float, total: Compared, policy: CanaryPolicy) -> bool:
    """Below the threshold, and the others have not come down with it: a shift of the traffic is no fault of a draft."""
    of_others = total.accept.value
    return accept_length < policy.min_accept_length and (of_others is None or of_others < 1 - policy.domain_tolerance)


def _weigh(total: Compared, policy: CanaryPolicy, minutes: float) -> tuple[Action, list[str]]:
    """The time is up: certain, or by the middle of the interval when it never becomes certain."""
    speed = total.speed
    if speed.value is None or speed.low is None or speed.high is None:
        return Action.WAIT, [f"The speeds cannot be compared yet: {speed.reason}."]
    said = _said(total)
    if speed.high < 1 - SPEED_TOLERANCE:
        return Action.ROLL_BACK, ["It is slower.", *said]
    if speed.low >= 1 - policy.domain_tolerance:
        return Action.PROMOTE, said
    if minutes < PATIENCE * policy.minutes:
        return Action.WAIT, ["The interval is still too wide to decide.", *said]
    is_fine = speed.value >= 1 - SPEED_TOLERANCE
    action = Action.PROMOTE if is_fine else Action.ROLL_BACK
    return action, [f"Undecided after {minutes:.0f} minutes, so the middle of the interval counts.", *said]


def _said(compared: Compared) -> list[str]:
    said = []
    for what, ratio, ours, theirs, digits in (
        ("tokens/s", compared.speed, compared.canary_tokens_per_second, compared.other_tokens_per_second, 0),
        ("accept length", compared.accept, compared.canary_accept_length, compared.other_accept_length, 2),
    ):
        if ratio.value is not None and ratio.low is not None and ratio.high is not None:
            between = f"{ratio.value - 1:+.1%}, 95 % between {ratio.low - 1:+.1%} and {ratio.high - 1:+.1%}"
            said.append(f"{what} {ours:.{digits}f} on the canary, {theirs:.{digits}f} on the others ({between}).")
    return [sentence[0].upper() + sentence[1:] for sentence in said]


def _worse(domain: Compared, policy: CanaryPolicy) -> str:
    return f"{domain.domain} is worse than the tolerance of {policy.domain_tolerance:.0%}: " + " ".join(_said(domain))


def _compare(name: str, canary: Sequence[ReplicaSums], others: Sequence[ReplicaSums], policy: CanaryPolicy) -> Compared:
    speed = _stratified(canary, others, "speed", lambda row: (row.domain, row.batch_bucket))
    accept = _stratified(canary, others, "accept", lambda row: row.domain)
    num_canary, num_others = sum(r.num_requests for r in canary), sum(r.num_requests for r in others)
    is_judged = min(num_canary, num_others) >= MIN_DOMAIN_REQUESTS
    least = 1 - policy.domain_tolerance
    return Compared(
        domain=name,
        canary_requests=num_canary,
        other_requests=num_others,
        canary_tokens_per_second=_sum(canary, "speed").ratio,
        other_tokens_per_second=_sum(others, "speed").ratio,
        canary_accept_length=_sum(canary, "accept").ratio,
        other_accept_length=_sum(others, "accept").ratio,
        speed=speed,
        accept=accept,
        is_worse=is_judged and any(ratio.high is not None and ratio.high < least for ratio in (speed, accept)),
    )


def _stratified(
    canary: Sequence[ReplicaSums],
    others: Sequence[ReplicaSums],
    what: str,
    key: Callable[[ReplicaSums], object],
) -> Interval:
    """Canary over others within each stratum, weighted by the canary's tokens."""
    unit = "requests" if what == "speed" else "reports"
    compared = []
    for stratum in {key(row): None for row in (*canary, *others)}:
        ours, theirs = (_sum([row for row in side if key(row) == stratum], what) for side in (canary, others))
        ratio = ratio_of_ratios(ours, theirs, a_name="canary", b_name="other", unit=unit)
        compared.append((ratio, float(ours.sum_x)))
    return stratified(sorted(compared, key=lambda pair: -pair[1]))


def _sum(rows: Sequence[ReplicaSums], what: str) -> Moments:
    return reduce(lambda total, row: total + (row.speed if what == "speed" else row.accept), rows, NOTHING)


def _of(rows: Sequence[ReplicaSums], domain: str) -> list[ReplicaSums]:
    return [row for row in rows if row.domain == domain]
