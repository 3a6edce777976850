"""Which drafts of a step are made, and which are verified: what brings the most tokens per second, none included.

A batch pays for its step together. A draft costs a row more of the target's pass and, for all who take part, a pass of
the draft for each depth. What a second is worth are the tokens that the batch makes in one. So a request takes part
where what its drafts may be expected to bring is worth more than what they take; each draft is let through where the
chance that it passes, and all before it, is worth its row; and the chains go on while a further pass is.

A request whose text the draft does not know yet waits: taking it in costs once, and for how long drafts will pay nobody
knows. It is let in when the drafts of its domain would have saved as much since they began to pay. So a moment in which
they do, like a step of fewer requests than usual, costs nothing; and where they go on paying, nobody waits.

What is decided before a draft is drawn: how sure the draft is may be looked at, which token it says may not. Else
sampled drafts would not be distributed as verification takes them to be. For the same reason a draft that has been let
through is never taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from serving.engine.acceptance import Acceptance, bin_of

SWAP_PROBE_LOOKAHEAD = 1  # at least, in the first steps after a swap, whether it pays or not
STEPS_PER_PLAN = 8
ROUNDS = 2  # of what a second is worth: without drafts, then with those that are worth it


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Seconds of the next step of a batch, by what its requests draft."""

    verify: Sequence[float]  # the target's pass, by drafts in all
    first: float = 0.0  # the draft's first pass,
    further: float = 0.0  # each further one,
    request: float = 0.0  # and what the first one takes in for each request that drafts
    position: float = 0.0  # one position of that

    def seconds(self, num_drafts: int, deepest: int, num_drafting: int) -> float:
        """Of a step with so many drafts of so many requests, ``deepest`` of one of them."""
        draft = self.first + self.further * (deepest - 1) if deepest else 0.0
        return self.verify[num_drafts] + draft + self.request * num_drafting

    def row(self, num_drafts: int, num_more: int) -> float:
        """Of each of so many more drafts, on average; as many as there are at most."""
        last = min(len(self.verify) - 1, num_drafts + max(1, num_more))
        return (self.verify[last] - self.verify[num_drafts]) / max(1, last - num_drafts)


@dataclass(frozen=True, slots=True)
class Worth:
    """What is to be expected of one depth of one request's drafts, in a step on average."""

    gain: float  # tokens, less what their rows are worth
    tokens: float
    rows: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Who takes part in a step's first pass of the draft, and what a second is worth."""

    limits: tuple[int, ...]  # the most drafts of each request; 0 = takes no part
    speed: float  # tokens per second
    costs: StepCosts
    saved: tuple[float, ...]  # seconds, by each request in a step; 0 = takes no part


class Drafting:
    """Drafts of one step. ``limits[i]``: the most of request i; where it is 0, the request takes no part."""

    def __init__(
        self, floors: Sequence[int], free: Mapping[int, Acceptance] = MappingProxyType({}), plan: Plan | None = None
    ) -> None:
        """``floors[i]`` drafts of each whether it pays or not; by a plan more of those in ``free``, as it pays."""
        self.limits = list(plan.limits if plan else floors)
        self._floors = floors
        self._free = free
        self._costs = plan.costs if plan else StepCosts([0.0])
        self._speed = plan.speed if plan else 0.0
        self._num_rows = sum(floors)
        self._reach: dict[int, float] = {}  # the chance that all drafts so far pass

    def lets_through(self, depth: int, rows: Sequence[int], confidences: Sequence[float]) -> list[bool]:
        """Which of these requests' next drafts are verified. ``depth``: how many each has; call once for each depth."""
        through = [depth < self._floors[i] for i in rows]
        chances = [self._chance(i, confidence) for i, confidence in zip(rows, confidences, strict=True)]
        order = [place for place in range(len(rows)) if not through[place] and rows[place] in self._free]
        order.sort(key=lambda place: -chances[place])
        verify, most = self._costs.verify, 0
        best = worth = 0.0
        for num, place in enumerate(order, start=1):
            worth += chances[place]
            taken = self._speed * (verify[self._num_rows + num] - verify[self._num_rows])
            if worth - taken > best:
                best, most = worth - taken, num
        for place in order[:most]:
            through[place] = True
        self._num_rows += most
        self._reach.update((i, chance) for i, chance in zip(rows, chances, strict=True))
        return through

    def going_on(self, depth: int, rows: Sequence[int]) -> list[bool]:
        """For which of these requests, all of ``depth`` drafts, a further pass is made."""
        forced = [depth < self._floors[i] for i in rows]
        free = [i for i, on in zip(rows, forced, strict=True) if not on and depth < self.limits[i]]
        if not free:
            return forced
        price = self._speed * self._costs.row(self._num_rows, len(free))
        gains = {i: _worth(self._free[i], depth, self._reach[i], price)[0].gain for i in free}
        if not any(forced) and sum(gains.values()) <= self._speed * self._costs.further:
            return forced
        return [on or gains.get(i, 0.0) > 0 for i, on in zip(rows, forced, strict=True)]

    def _chance(self, i: int, confidence: float) -> float:
        acceptance = self._free.get(i)
        if acceptance is None:
            return 1.0
        return self._reach.get(i, 1.0) * acceptance.calibration.chances()[bin_of(confidence)]


class Planner:
    """Plans, each for some steps of the same requests: what it takes in, acceptance and costs, changes slowly."""

    def __init__(self) -> None:
        self._key: object = None
        self._plan = Plan((), 0.0, StepCosts([0.0]), ())
        self._num_left = 0  # steps that it is still good for

    def draft(
        self,
        limits: Sequence[int],
        floors: Sequence[int],
        free: Mapping[int, Acceptance],
        costs: Callable[[], StepCosts],
        pending: Sequence[int],
    ) -> Drafting:
        """The drafts of the next step. ``limits``, ``floors``: the most and the least of each request; what lies
        between is chosen for the requests ``free`` by their domains' acceptance. ``pending``: positions of each that
        its draft has not taken in."""
        key = (tuple(limits), tuple(floors), tuple((i, id(acceptance)) for i, acceptance in free.items()))
        if key != self._key or not self._num_left:
            self._key, self._num_left = key, STEPS_PER_PLAN
            self._plan = plan(limits, floors, free, costs())
        self._num_left -= 1
        limits = self._let_in(floors, free, pending)
        drafting = {id(acceptance) for i, acceptance in free.items() if limits[i]}
        for acceptance in {id(each): each for each in free.values()}.values():
            acceptance.steps_off = 0 if id(acceptance) in drafting else acceptance.steps_off + 1
        return Drafting(floors, free, replace(self._plan, limits=limits))

    def _let_in(self, floors: Sequence[int], free: Mapping[int, Acceptance], pending: Sequence[int]) -> tuple[int, ...]:
        """The plan's limits, without those who wait; counts what this step would save."""
        by_domain: dict[int, list[int]] = {}
        for i, acceptance in free.items():
            by_domain.setdefault(id(acceptance), []).append(i)
        for requests in by_domain.values():
            saved = [self._plan.saved[i] for i in requests if self._plan.saved[i]]
            acceptance = free[requests[0]]
            acceptance.saved = acceptance.saved + sum(saved) / len(saved) if saved else 0.0
        position, limits = self._plan.costs.position, list(self._plan.limits)
        for i, acceptance in free.items():
            if position * pending[i] > acceptance.saved:
                limits[i] = floors[i]
        return tuple(limits)


def plan(limits: Sequence[int], floors: Sequence[int], free: Mapping[int, Acceptance], costs: StepCosts) -> Plan:
    """Who takes part, and what a second is worth then: at first what it is without drafts."""
    plain, num_free = sum(floors), sum(limits[i] > floors[i] for i in free)
    speed = len(limits) / costs.verify[plain]
    starting: Mapping[int, float] = {}
    for _ in range(ROUNDS):
        price = speed * costs.row(plain, num_free)
        worths = {i: _worths(acceptance, limits[i], price) for i, acceptance in free.items()}
        starting, depth, passes = _starting(worths, costs, speed, max(floors, default=0))
        if not starting:
            break
        used = [each for i in starting for each in worths[i][:depth]]
        seconds = _between(costs.verify, plain + sum(each.rows for each in used)) + passes
        speed = max(speed, (len(limits) + sum(each.tokens for each in used)) / seconds)
    most = tuple(limits[i] if i in starting else floor for i, floor in enumerate(floors))
    return Plan(most, speed, costs, tuple(starting.get(i, 0.0) for i in range(len(limits))))


def _starting(
    worths: Mapping[int, Sequence[Worth]], costs: StepCosts, speed: float, anyway: int
) -> tuple[Mapping[int, float], int, float]:
    """Who takes part and the seconds that each saves, up to which depth, and the seconds that the draft takes for them.

    ``anyway``: passes that are made for others.
    """
    best = 0.0
    found: tuple[Mapping[int, float], int, float] = ({}, 0, 0.0)
    for depth in range(1, max(map(len, worths.values()), default=0) + 1):
        gains = {i: sum(w.gain for w in each[:depth]) - speed * costs.request for i, each in worths.items()}
        taking_part = [i for i, gain in gains.items() if gain > 0]
        shares = [1.0, *(sum(w.rows for i in taking_part for w in worths[i][d : d + 1]) for d in range(depth - 1))]
        seconds = sum(
            (costs.further if d else costs.first) * min(1.0, share) for d, share in enumerate(shares) if d >= anyway
        )
        gross = sum(gains[i] for i in taking_part)
        if (total := gross - speed * seconds) > best:
            saved = {i: gains[i] / gross * total / speed for i in taking_part}
            best, found = total, (saved, depth, seconds + costs.request * len(taking_part))
    return found


def _worths(acceptance: Acceptance, limit: int, price: float) -> list[Worth]:
    """By depth."""
    found, share, reach = [], 1.0, 1.0
    for position in range(limit):
        worth, passed = _worth(acceptance, position, reach, price)
        found.append(Worth(share * worth.gain, share * worth.tokens, share * worth.rows))
        if worth.rows == 0:
            break
        share, reach = share * worth.rows, reach * passed
    return found


def _worth(acceptance: Acceptance, position: int, reach: float, price: float) -> tuple[Worth, float]:
    """Of a draft whose predecessors pass with the chance ``reach``; and how many of those let through pass, given that.

    ``price``: what a row is worth, in tokens.
    """
    rows = passed = 0.0
    for share, chance in zip(acceptance.shares(position), acceptance.calibration.chances(), strict=True):
        if reach * chance > price:
            rows, passed = rows + share, passed + share * chance
    return Worth(reach * passed - price * rows, reach * passed, rows), passed / rows if rows else 0.0


def _between(values: Sequence[float], place: float) -> float:
    """A straight line between neighbours."""
    low = min(int(place), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)
