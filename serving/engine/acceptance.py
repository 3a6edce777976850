"""What is known of a version's drafts: how often they pass by how sure of them it is, and how sure it is by domain.

How sure a draft is of a token, the probability of its likeliest one, tells much more of whether it will pass than
the domain does. A table keeps that honest, since what a draft says of itself may flatter it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

BINS = 10  # of how sure a draft is, from 0 to 1
EQUAL = [1 / BINS] * BINS
BELIEF = 4.0  # drafts of a bin that it takes to outweigh what the draft says of itself
BIN_DECAY = 0.99  # per draft of a bin: the last hundred count
PRIOR_RATE = 0.5  # of a version that has not been seen at work
PRIOR_WEIGHT = 2.0  # in drafts
DECAY = 0.985  # per draft of a position: the last ~70 count
CARRIED_WEIGHT = 4.0  # in drafts: what the version before a new one was like counts for so many of its own
MAX_DOMAINS = 256  # of a version; clients choose their names, and stats() tells of each every second

# Of one draft: how sure it was, and with which chance the target took its guess.
Seen = tuple[float, float]


def bin_of(confidence: float) -> int:
    """0 .. BINS - 1."""
    return min(BINS - 1, int(confidence * BINS))


class Calibration:
    """How often the drafts of a version pass, by how sure of them it is."""

    def __init__(self, before: Calibration | None = None) -> None:
        """``before``: of the version that this one takes over from."""
        self._tried: list[float] = [min(CARRIED_WEIGHT, tried) for tried in before._tried] if before else [0.0] * BINS
        rates = before.chances() if before else EQUAL
        self._passed = [rate * tried for rate, tried in zip(rates, self._tried, strict=True)]
        self._chances = [self._chance(place) for place in range(BINS)]

    def observe(self, confidence: float, passed: float) -> None:
        """Count a draft that was tried: ``passed`` 1 or 0, or the chance of it where it was not left to chance."""
        place = bin_of(confidence)
        self._tried[place] = self._tried[place] * BIN_DECAY + 1
        self._passed[place] = self._passed[place] * BIN_DECAY + passed
        self._chances[place] = self._chance(place)

    def chances(self) -> list[float]:
        """By bin; not to be changed."""
        return self._chances

    def _chance(self, place: int) -> float:
        said = (place + 0.5) / BINS
        return (self._passed[place] + BELIEF * said) / (self._tried[place] + BELIEF)


@dataclass(slots=True)
class Acceptance:
    """Decayed counts per draft position of one domain under one version, of drafts whose predecessors passed."""

    max_lookahead: int
    calibration: Calibration = field(default_factory=Calibration)
    passed: list[float] = field(default_factory=list)  # by position, as is ``tried``
    tried: list[float] = field(default_factory=list)
    sure: list[list[float]] = field(default_factory=list)  # by position and bin
    tokens_per_step: float = 1.0  # of late, of steps without drafts too
    steps_off: int = 0  # steps of a batch that drafted nothing for this domain, since it was last seen drafting
    saved: float = 0.0  # seconds of a request that drafts would have saved since they began to pay; 0 = they do not

    def __post_init__(self) -> None:
        self.passed = self.passed or [0.0] * self.max_lookahead
        self.tried = self.tried or [0.0] * self.max_lookahead
        self.sure = self.sure or [[0.0] * BINS for _ in range(self.max_lookahead)]

    def observe(self, seen: Sequence[Seen], num_correct: int) -> None:
        """Count one verify step: its drafts up to the first wrong one, and one behind them that was held back."""
        for position, (confidence, passed) in enumerate(seen):
            self._count(position, confidence, passed)
        self.tokens_per_step += (1 - DECAY) * (1 + num_correct - self.tokens_per_step)

    def watch(self, seen: Sequence[Seen]) -> None:
        """Count first drafts that were never verified."""
        for confidence, passed in seen:
            self._count(0, confidence, passed)

    def carried(self, calibration: Calibration) -> Acceptance:
        """What to expect of the next version: these rates, soon outweighed by its own."""
        shares = [min(CARRIED_WEIGHT, tried) / max(tried, 1e-9) for tried in self.tried]
        return Acceptance(
            self.max_lookahead,
            calibration,
            [each * share for each, share in zip(self.passed, shares, strict=True)],
            [each * share for each, share in zip(self.tried, shares, strict=True)],
            [[each * share for each in bins] for bins, share in zip(self.sure, shares, strict=True)],
            self.tokens_per_step,
            saved=self.saved,
        )

    def rates(self) -> list[float]:
        """a(1), a(2), ...; the prior of a position is the rate of the one before it."""
        rates, prior = [], PRIOR_RATE
        for passed, tried in zip(self.passed, self.tried, strict=True):
            prior = (passed + prior * PRIOR_WEIGHT) / (tried + PRIOR_WEIGHT)
            rates.append(prior)
        return rates

    def shares(self, position: int) -> list[float]:
        """Of the drafts at a position, how many are of each bin; the prior is the position before it, or equal."""
        prior = self.shares(position - 1) if position else EQUAL
        weight = PRIOR_WEIGHT / (self.tried[position] + PRIOR_WEIGHT)
        each = 1 / (self.tried[position] + PRIOR_WEIGHT)
        return [num * each + share * weight for num, share in zip(self.sure[position], prior, strict=True)]

    def _count(self, position: int, confidence: float, passed: float) -> None:
        self.calibration.observe(confidence, passed)
        bins = self.sure[position]
        for place in range(BINS):
            bins[place] *= DECAY
        bins[bin_of(confidence)] += 1
        self.tried[position] = self.tried[position] * DECAY + 1
        self.passed[position] = self.passed[position] * DECAY + passed


class Chooser:
    """Acceptance per domain under one version, of the MAX_DOMAINS that were used last. Used by one thread."""

    def __init__(self, max_lookahead: int, before: Chooser | None = None) -> None:
        """``before``: of the version that this one takes over from."""
        self._max_lookahead = max_lookahead
        self._calibration: Calibration = Calibration(before._calibration if before else None)
        known = before.domains() if before else {}
        self._domains = {domain: acceptance.carried(self._calibration) for domain, acceptance in known.items()}
        self._used: dict[str, None] = dict(before._used) if before else {}  # the domains, the one used last at the end

    def acceptance(self, domain: str) -> Acceptance:
        """The counts of a domain; made on first use, and anew after it was the one not used for longest."""
        self._used.pop(domain, None)
        self._used[domain] = None
        if domain not in self._domains:
            if len(self._domains) >= MAX_DOMAINS:
                oldest = next(iter(self._used))
                del self._used[oldest], self._domains[oldest]
            self._domains[domain] = Acceptance(self._max_lookahead, self._calibration)
        return self._domains[domain]

    def domains(self) -> dict[str, Acceptance]:
        """A copy of the mapping, for other threads to read."""
        return dict(self._domains)
