"""The gate's report as a table: domain x metric with candidate, live, change, interval and a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aurora_web.registry.models import SpeculatorVersion
from aurora_web.rollouts.gate import MIN_TRACES_PER_DOMAIN, DomainVerdict
from aurora_web.rollouts.models import GateDecision

BETTER, PASS, WORSE, NO_DATA = "Better", "Pass", "Worse", "No data"
TOO_LITTLE = "Too little"  # over all domains: no loss, but less than the policy asks for
NOT_JUDGED = "Not judged"  # it is shown beside what the gate decides by


@dataclass(frozen=True, slots=True)
class GateRow:
    """One metric of one domain ("" = all of them)."""

    domain: str
    share: float | None  # of the latest requests when it was judged
    num_traces: int
    metric: str
    candidate: float | None
    live: float | None
    change: float | None  # relative
    low: float | None  # 95 %
    high: float | None
    word: str

    @property
    def badge(self) -> str:
        return {BETTER: "good", WORSE: "bad", TOO_LITTLE: "warn"}.get(self.word, "")


def gate_rows(decision: GateDecision | None) -> list[GateRow]:
    """Accept length and predicted speedup over all domains, then accept length and accept rate of each."""
    domains = [DomainVerdict(**domain) for domain in decision.domains] if decision else []
    if decision is None or not domains:
        return []
    rows = [_total(decision), *_predicted(decision)]
    for domain in domains:
        rows += [_accept_length(domain), _accept_rate(domain)]
    return rows


def judged_length(version: SpeculatorVersion) -> float | None:
    """Accept length by replay as the gate judged it, by the traffic's shares then; unjudged ones: by their traces."""
    decision: GateDecision | None = getattr(version, "gate_decision", None)
    judged = decision.accept_length if decision else None
    return judged if judged is not None else version.accept_length()


def num_counted(domains: Sequence[Mapping[str, Any]]) -> int:
    """Held-out traces that the figure over all domains is made of: where shares are known, of those that have one.

    ``domains``: of a GateDecision.
    """
    return sum(domain["num_traces"] for domain in [each for each in domains if each.get("share")] or domains)


def _total(decision: GateDecision) -> GateRow:
    word = NO_DATA
    if decision.gain is not None:
        least = decision.policy.get("min_gain", 0.0)
        is_enough = decision.gain > 0 and decision.gain >= least
        is_certain = decision.gain_low is not None and decision.gain_low > 0
        word = BETTER if is_certain else PASS
        if not is_enough:
            word = WORSE if decision.gain < 0 else TOO_LITTLE
    num_traces, ours = num_counted(decision.domains), judged_length(decision.version)
    theirs = ours / (1 + decision.gain) if ours is not None and decision.gain is not None else None
    low, high = decision.gain_low, decision.gain_high
    return GateRow("", None, num_traces, "Accept length", ours, theirs, decision.gain, low, high, word)


def _predicted(decision: GateDecision) -> list[GateRow]:
    """An estimate beside what is judged; none where no replica has measured what its steps cost."""
    if decision.predicted_speed_gain is None:
        return []
    num_traces = num_counted(decision.domains)
    ours, theirs = decision.predicted_speedup, decision.live_predicted_speedup
    gain = decision.predicted_speed_gain
    return [GateRow("", None, num_traces, "Speedup, predicted", ours, theirs, gain, None, None, NOT_JUDGED)]


def _accept_length(domain: DomainVerdict) -> GateRow:
    word = NO_DATA
    if domain.gain is not None:
        is_certain = domain.gain_low is not None and domain.gain_low > 0
        word = WORSE if domain.is_worse else BETTER if is_certain else PASS
        if domain.num_traces < MIN_TRACES_PER_DOMAIN:
            word = NOT_JUDGED
    return GateRow(
        domain.domain,
        domain.share,
        domain.num_traces,
        "Accept length",
        domain.accept_length,
        domain.live_accept_length,
        domain.gain,
        domain.gain_low,
        domain.gain_high,
        word,
    )


def _accept_rate(domain: DomainVerdict) -> GateRow:
    """Shown beside it; the gate judges by accept length alone, so its word says only whether there is data.

    It has no interval: a report holds no second moments of the proposed drafts, which end with a trace's last tokens.
    """
    ours, theirs = domain.accept_rate, domain.live_accept_rate
    change = ours / theirs - 1 if ours is not None and theirs else None
    word = NO_DATA if ours is None or theirs is None else NOT_JUDGED
    share, num_traces = domain.share, domain.num_traces
    return GateRow(domain.domain, share, num_traces, "Accept rate", ours, theirs, change, None, None, word)
