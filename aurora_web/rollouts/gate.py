"""The gate: may this candidate replace what is live? A pure function of the report and the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from aurora_web.metrics.ratios import Interval
from aurora_web.numbers import ARROW, signed_percent
from aurora_web.rollouts.replayed import replay_gain, replay_moments, shares_of, sum_moments
from speculators.records import DomainScore, EvalReport

MIN_TRACES_PER_DOMAIN = 3  # a domain with fewer held-out traces is reported, not judged
# What serves now: nothing, day 0's random weights, something that went live before anything was held out, or a version
# with a report of its own.
Live = Literal["none", "random", "unjudged", "judged"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a target asks of a candidate."""

    min_gain: float  # relative gain of accept_length over all domains
    domain_tolerance: float  # relative loss of accept_length that one domain may take
    min_held_out_traces: int
    live: Live = "judged"
    live_num_traces: int = 1_000_000  # that what is live was judged on; none before anything was held out

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DomainVerdict:
    """One domain's part of the verdict; accept lengths by replay of the same held-out traces."""

    domain: str
    num_traces: int
    accept_length: float | None
    live_accept_length: float | None
    gain: float | None
    is_worse: bool  # beyond the tolerance, and with enough traces to say so
    # The rest has defaults, so that older verdicts are understood.
    gain_low: float | None = None  # 95 %
    gain_high: float | None = None
    accept_rate: float | None = None
    live_accept_rate: float | None = None
    share: float | None = None  # of the latest requests, by which it counts over all domains; None = by its traces

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Passed or not, and why, in sentences."""

    passed: bool
    reasons: tuple[str, ...]
    domains: tuple[DomainVerdict, ...]
    gain: Interval  # accept_length over live's - 1, all domains
    accept_length: float | None = None  # of the candidate, all domains


_UNKNOWN = Interval(None, None, None, "nothing to compare with")


def decide(report: EvalReport | None, policy: Policy, requests: Mapping[str, int] | None = None) -> Verdict:
    """Judge a candidate by its replay report; ``None``: nothing was held out yet.

    ``requests``: how many of the latest requests were of each domain. Over all domains the traffic of now decides; one
    that has none now may still not be spoilt beyond the tolerance.
    """
    if report is None:
        return _without_evidence(policy)
    shares = shares_of(requests or {}, report.candidate, report.live)
    domains = _domains(report, policy, shares)
    num_traces = sum(score.num_traces for score in report.candidate)
    # What is live asks for no more evidence than it had itself: day 0 would else stand still until enough is held out.
    wanted = min(policy.min_held_out_traces, max(1, policy.live_num_traces))
    if num_traces < wanted:
        traces = "1 held-out trace was" if num_traces == 1 else f"{num_traces} held-out traces were"
        reason = f"Only {traces} replayed, {wanted} are needed."
        return Verdict(False, (reason,), domains, Interval(None, None, None, reason))
    if not report.live:
        return Verdict(True, ("No version is live to compare with.",), domains, _UNKNOWN)
    gain = replay_gain(report.candidate, report.live, shares)
    reasons = [_gain_reason(report, gain, policy, shares)]
    passed = gain.value is not None and gain.value > 0 and gain.value >= policy.min_gain
    for verdict in domains:
        if verdict.is_worse and verdict.gain is not None:
            passed = False
            reasons.append(
                f"{verdict.domain} gets worse: accept length {verdict.live_accept_length:.2f} {ARROW} "
                f"{verdict.accept_length:.2f} ({signed_percent(verdict.gain)}, "
                f"tolerance {signed_percent(-policy.domain_tolerance, 0)})."
            )
    return Verdict(passed, tuple(reasons), domains, gain, sum_moments(report.candidate, shares).ratio)


def _without_evidence(policy: Policy) -> Verdict:
    """Day 0 is served at once, and what has learnt takes its place unseen; after that nothing goes live unjudged."""
    if policy.live == "none":
        return Verdict(True, ("No version is live to compare with.",), (), _UNKNOWN)
    if policy.live == "random":
        reason = "Nothing is held out yet to compare on; what is live has random weights, so nothing can be lost."
        return Verdict(True, (reason,), (), _UNKNOWN)
    return Verdict(False, ("Nothing is held out yet to compare on: what is live stays.",), (), _UNKNOWN)


def _gain_reason(report: EvalReport, gain: Interval, policy: Policy, shares: Mapping[str, float]) -> str:
    candidate, live = sum_moments(report.candidate, shares), sum_moments(report.live, shares)
    if gain.value is None:
        return f"The gain cannot be known: {gain.reason}."
    between = ""
    if gain.low is not None and gain.high is not None:
        between = f", 95 % between {signed_percent(gain.low)} and {signed_percent(gain.high)}"
    how = ", by the domains' shares of the latest requests" if shares else ""
    return (
        f"Accept length {live.ratio:.2f} {ARROW} {candidate.ratio:.2f} on {candidate.n} held-out traces{how} "
        f"({signed_percent(gain.value)}{between}; the policy asks for more than {signed_percent(policy.min_gain)})."
    )


def _domains(report: EvalReport, policy: Policy, shares: Mapping[str, float]) -> tuple[DomainVerdict, ...]:
    live = {score.domain: score for score in report.live}
    ordered = sorted(report.candidate, key=lambda s: s.domain)
    return tuple(_domain(score, live.get(score.domain), policy, shares.get(score.domain)) for score in ordered)


def _domain(score: DomainScore, before: DomainScore | None, policy: Policy, share: float | None) -> DomainVerdict:
    gain = replay_gain((score,), (before,), {}) if before else _UNKNOWN
    is_beyond = gain.value is not None and gain.value < -policy.domain_tolerance
    return DomainVerdict(
        domain=score.domain,
        num_traces=score.num_traces,
        accept_length=replay_moments(score).ratio,
        live_accept_length=replay_moments(before).ratio if before else None,
        gain=gain.value,
        is_worse=is_beyond and score.num_traces >= MIN_TRACES_PER_DOMAIN,
        gain_low=gain.low,
        gain_high=gain.high,
        accept_rate=_accept_rate(score),
        live_accept_rate=_accept_rate(before) if before else None,
        share=share,
    )


def _accept_rate(score: DomainScore) -> float | None:
    return score.num_correct_drafts / score.num_proposed_drafts if score.num_proposed_drafts else None
