"""How many tokens to draft: what acceptance and the measured costs say is fastest, 0 included.

With a(i) the chance that draft i passes given that those before it did, a step with lookahead k commits
E(k) = 1 + a(1) + a(1) a(2) + ... tokens in cost(k) seconds; the k with the most tokens per second wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

PRIOR_RATE = 0.5  # of a version that has not been seen at work
PRIOR_WEIGHT = 2.0  # in drafts
DECAY = 0.985  # per verify step: the last ~70 steps count
PROBE_EVERY = 24  # steps between probes while speculation is off
PROBE_LOOKAHEAD = 2


@dataclass(slots=True)
class Acceptance:
    """Decayed counts per draft position of one domain under one version."""

    max_lookahead: int
    passed: list[float] = field(default_factory=list)
    tried: list[float] = field(default_factory=list)
    steps_off: int = 0  # plain steps since the last speculative one

    def __post_init__(self) -> None:
        self.passed = [0.0] * self.max_lookahead
        self.tried = [0.0] * self.max_lookahead

    def observe(self, num_proposed: int, num_correct: int) -> None:
        """Count one verify step; drafts behind the first wrong one were never tried."""
        if num_proposed == 0:
            self.steps_off += 1
            return
        self.steps_off = 0
        for i in range(self.max_lookahead):
            self.passed[i] *= DECAY
            self.tried[i] *= DECAY
        for i in range(min(num_proposed, num_correct + 1)):
            self.tried[i] += 1
            self.passed[i] += i < num_correct

    def rates(self) -> list[float]:
        """a(1), a(2), ...; the prior of a position is the rate of the one before it."""
        rates, prior = [], PRIOR_RATE
        for passed, tried in zip(self.passed, self.tried, strict=True):
            prior = (passed + prior * PRIOR_WEIGHT) / (tried + PRIOR_WEIGHT)
            rates.append(prior)
        return rates

    @property
    def is_probe_due(self) -> bool:
        return self.steps_off >= PROBE_EVERY


def expected_tokens(rates: Sequence[float], lookahead: int) -> float:
    """E(lookahead)."""
    total, reach = 1.0, 1.0
    for rate in rates[:lookahead]:
        reach *= rate
        total += reach
    return total


def fastest(rates: Sequence[float], cost_by_lookahead: Sequence[float]) -> int:
    """The lookahead 0 .. len(cost) - 1 that commits the most tokens per second."""
    return max(range(len(cost_by_lookahead)), key=lambda k: expected_tokens(rates, k) / cost_by_lookahead[k])


class Chooser:
    """Acceptance per domain under one version, and the choice that follows from it."""

    def __init__(self, max_lookahead: int) -> None:
        self._max_lookahead = max_lookahead
        self._domains: dict[str, Acceptance] = {}

    def acceptance(self, domain: str) -> Acceptance:
        """The counts of a domain; made on first use."""
        if domain not in self._domains:
            self._domains[domain] = Acceptance(self._max_lookahead)
        return self._domains[domain]

    def choose(self, domain: str, cost_by_lookahead: Sequence[float]) -> int:
        """Lookahead for the next step; a small probe now and then while speculation does not pay."""
        acceptance = self.acceptance(domain)
        best = fastest(acceptance.rates(), cost_by_lookahead)
        if best == 0 and acceptance.is_probe_due:
            return min(PROBE_LOOKAHEAD, len(cost_by_lookahead) - 1)
        return best

    def domains(self) -> dict[str, Acceptance]:
        """A copy of the mapping, for other threads to read."""
        return dict(self._domains)
