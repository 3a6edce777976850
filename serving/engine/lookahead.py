"""How many tokens to draft: what acceptance and the measured costs say is fastest, 0 included.

With a(i) the chance that draft i passes given that those before it did, a request with lookahead k gets
E(k) = 1 + a(1) + a(1) a(2) + ... tokens from a step. A batch pays for its step together, so its lookaheads are chosen
together. What that costs depends on how many drafts there are to verify and on how deep the deepest goes, since each
depth is one more pass of the draft, whoever takes part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

PRIOR_RATE = 0.5  # of a version that has not been seen at work
PRIOR_WEIGHT = 2.0  # in drafts
DECAY = 0.985  # per verify step: the last ~70 steps count
CARRIED_WEIGHT = 4.0  # in drafts: what the version before a new one was like counts for so many of its own
SWAP_PROBE_LOOKAHEAD = 1  # at least, in the first steps after a swap, whether it pays or not


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Seconds of the next step of a batch, by what its requests draft."""

    verify: Sequence[float]  # the target's pass, by drafts in all
    first: float = 0.0  # the draft's first pass,
    further: float = 0.0  # each further one,
    request: float = 0.0  # and what the first one takes in for each request that drafts
    depth: int = 0  # that is drafted anyway, by requests that there is nothing to choose for

    def seconds(self, num_drafts: int, deepest: int, num_drafting: int) -> float:
        """Of a step with so many drafts of so many requests, ``deepest`` of one of them."""
        deepest = max(deepest, self.depth)
        draft = self.first + self.further * (deepest - 1) if deepest else 0.0
        return self.verify[num_drafts] + draft + self.request * num_drafting

    def beside(self, lookaheads: Sequence[int]) -> StepCosts:
        """What more drafts cost beside those of requests with such fixed lookaheads."""
        taken = self.request * sum(lookahead > 0 for lookahead in lookaheads)
        verify = [seconds + taken for seconds in self.verify[sum(lookaheads) :]]
        return replace(self, verify=verify, depth=max((self.depth, *lookaheads)))


@dataclass(slots=True)
class Acceptance:
    """Decayed counts per draft position of one domain under one version."""

    max_lookahead: int
    passed: list[float] = field(default_factory=list)  # by position, as is ``tried``
    tried: list[float] = field(default_factory=list)
    steps_off: int = 0  # steps of a batch that drafted nothing for this domain, since it was last seen drafting

    def __post_init__(self) -> None:
        self.passed = self.passed or [0.0] * self.max_lookahead
        self.tried = self.tried or [0.0] * self.max_lookahead

    def observe(self, num_proposed: int, num_correct: int) -> None:
        """Count one verify step; drafts behind the first wrong one were never tried."""
        if num_proposed == 0:
            return
        for i in range(self.max_lookahead):
            self.passed[i] *= DECAY
            self.tried[i] *= DECAY
        for i in range(min(num_proposed, num_correct + 1)):
            self.tried[i] += 1
            self.passed[i] += i < num_correct

    def watch(self, passed: Sequence[float]) -> None:
        """Count first drafts that were never verified: with which chance each would have passed."""
        for chance in passed:
            for i in range(self.max_lookahead):
                self.passed[i] *= DECAY
                self.tried[i] *= DECAY
            self.tried[0] += 1
            self.passed[0] += chance

    def carried(self) -> Acceptance:
        """What to expect of the next version: these rates, soon outweighed by its own."""
        weights = [min(CARRIED_WEIGHT, tried) for tried in self.tried]
        passed = [p * w / max(t, w, 1e-9) for p, w, t in zip(self.passed, weights, self.tried, strict=True)]
        return Acceptance(self.max_lookahead, passed, weights)

    def rates(self) -> list[float]:
        """a(1), a(2), ...; the prior of a position is the rate of the one before it."""
        rates, prior = [], PRIOR_RATE
        for passed, tried in zip(self.passed, self.tried, strict=True):
            prior = (passed + prior * PRIOR_WEIGHT) / (tried + PRIOR_WEIGHT)
            rates.append(prior)
        return rates


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


def fastest_together(
    rates: Sequence[Sequence[float]], limits: Sequence[int], costs: StepCosts, num_others: int = 0
) -> list[int]:
    """Lookaheads of the requests of one step: for each depth in turn, the likeliest drafts that are no deeper.

    ``num_others``: requests of the step that there is nothing to choose for; each gets a token whatever is chosen.
    """
    gains = []
    for request, (each, limit) in enumerate(zip(rates, limits, strict=True)):
        reach = 1.0
        for depth, rate in enumerate(each[:limit], start=1):
            reach *= rate
            gains.append((-reach, depth, request))
    gains.sort()
    least = float(len(limits) + num_others)
    best_speed, best_depth, best_num = least / costs.seconds(0, 0, 0), 0, 0
    for deepest in range(1, max(limits, default=0) + 1):
        tokens, num, drafting = least, 0, 0
        for lost, depth, _ in gains:
            if depth > deepest:
                continue
            tokens, num, drafting = tokens - lost, num + 1, drafting + (depth == 1)
            if (speed := tokens / costs.seconds(num, deepest, drafting)) > best_speed:
                best_speed, best_depth, best_num = speed, deepest, num
    lookaheads = [0] * len(limits)
    for request in [request for _, depth, request in gains if depth <= best_depth][:best_num]:
        lookaheads[request] += 1
    return lookaheads


def choose(requests: Sequence[Acceptance], limits: Sequence[int], costs: StepCosts, num_others: int = 0) -> list[int]:
    """Lookaheads for the next step, of requests with such acceptance and at most ``limits``.

    ``costs``, ``num_others``: as in ``fastest_together``.
    """
    seen = {id(acceptance): acceptance for acceptance in requests}
    rates = {key: acceptance.rates() for key, acceptance in seen.items()}
    chosen = fastest_together([rates[id(acceptance)] for acceptance in requests], limits, costs, num_others)
    active = {id(acceptance) for acceptance, lookahead in zip(requests, chosen, strict=True) if lookahead}
    for key, acceptance in seen.items():
        acceptance.steps_off = 0 if key in active else acceptance.steps_off + 1
    return chosen


class Chooser:
    """Acceptance per domain under one version."""

    def __init__(self, max_lookahead: int, before: Chooser | None = None) -> None:
        """``before``: of the version that this one takes over from."""
        self._max_lookahead = max_lookahead
        known = before.domains() if before else {}
        self._domains = {domain: acceptance.carried() for domain, acceptance in known.items()}

    def acceptance(self, domain: str) -> Acceptance:
        """The counts of a domain; made on first use."""
        if domain not in self._domains:
            self._domains[domain] = Acceptance(self._max_lookahead)
        return self._domains[domain]

    def domains(self) -> dict[str, Acceptance]:
        """A copy of the mapping, for other threads to read."""
        return dict(self._domains)
