import itertools
import random

import pytest

from serving.engine.acceptance import Acceptance, Chooser
from serving.engine.drafting import STEPS_PER_PLAN, Drafting, Planner, StepCosts, plan

CHEAP = StepCosts([1.0 + 0.03 * num for num in range(17)], first=0.05, further=0.04, request=0.005, position=0.003)
DEAR = StepCosts(
    [1.0 + 0.14 * num for num in range(17)], first=0.05, further=0.04, request=0.005, position=0.003
)  # no matrix unit
STEPPED = StepCosts([1.0] + [1.2] * 8 + [2.0] * 8, first=0.05, further=0.04, request=0.005)
# How sure of its tokens a draft tends to be: now and then quite.
SURE = {"good": [0.95, 0.85, 0.75, 0.45], "middling": [0.15, 0.25, 0.35, 0.85], "bad": [0.05, 0.05, 0.05, 0.15]}


class Traffic:
    """Requests whose drafts pass as often as the draft says, times ``honesty``."""

    def __init__(self, domains, costs, honesty=1.0):
        self.domains, self.costs, self.honesty = domains, costs, honesty
        self.chooser, self.planner, self.random = Chooser(4), Planner(), random.Random(7)
        self.num_tokens = self.seconds = self.num_drafts = 0

    def step(self, drafting):
        """Make its drafts, verify them, learn from them."""
        confidences = {i: [] for i in range(len(self.domains))}
        num_drafts = dict.fromkeys(confidences, 0)
        active, depth = [i for i, limit in enumerate(drafting.limits) if limit], 0
        while active:
            sure = [self.random.choice(SURE[self.domains[i]]) for i in active]
            for i, each in zip(active, sure, strict=True):
                confidences[i].append(each)
            through = drafting.lets_through(depth, active, sure)
            depth += 1
            active = [i for i, verified in zip(active, through, strict=True) if verified]
            for i in active:
                num_drafts[i] = depth
            active = [i for i, on in zip(active, drafting.going_on(depth, active), strict=True) if on]
        for i, sure in confidences.items():
            passes = [self.random.random() < each * self.honesty for each in sure]
            correct = next((k for k in range(num_drafts[i]) if not passes[k]), num_drafts[i])
            seen = [(each, float(won)) for each, won in zip(sure[: correct + 1], passes, strict=False)]
            self.chooser.acceptance(self.domains[i]).observe(seen, correct)
            self.num_tokens += 1 + correct
        rows, passes = sum(num_drafts.values()), max(map(len, confidences.values()))
        self.num_drafts += rows
        self.seconds += self.costs.seconds(rows, passes, sum(limit > 0 for limit in drafting.limits))

    def chosen(self, limit=4, floors=None):
        free = {i: self.chooser.acceptance(domain) for i, domain in enumerate(self.domains)}
        size = len(self.domains)
        return self.planner.draft([limit] * size, floors or [0] * size, free, lambda: self.costs, [0] * size)

    def speed(self, num_steps, drafting):
        self.num_tokens = self.seconds = self.num_drafts = 0
        for _ in range(num_steps):
            self.step(drafting())
        return self.num_tokens / self.seconds


def acceptance(sure):
    """Of drafts that are as sure as this, by position, and pass as often."""
    found = Acceptance(len(sure))
    for position, confidence in enumerate(sure):
        for _ in range(300):
            found._count(position, confidence, confidence)
    return found


def chosen(limits, floors, free, costs):
    return Drafting(floors, free, plan(limits, floors, free, costs))


@pytest.mark.parametrize("costs", [CHEAP, DEAR, STEPPED], ids=["cheap", "dear", "stepped"])
@pytest.mark.parametrize(
    "domains",
    [
        pytest.param(["good"] * 4, marks=pytest.mark.long),
        pytest.param(["middling"] * 4, marks=pytest.mark.long),
        pytest.param(["bad"] * 4, marks=pytest.mark.long),
        ["good", "middling", "bad", "bad"],
    ],
)
def test_no_fixed_lookahead_is_faster(domains, costs):
    """None included; where drafts are cheap, and some sure and others not, the choice is faster than all of these."""
    traffic = Traffic(domains, costs)
    traffic.speed(300, traffic.chosen)
    chosen = traffic.speed(2000, traffic.chosen)
    fixed = [traffic.speed(2000, lambda k=k: Drafting([k] * len(domains))) for k in range(5)]
    assert chosen > 0.98 * max(fixed)
    if "middling" in domains and costs is CHEAP:
        assert chosen > 1.01 * max(fixed)


def test_where_no_draft_pays_none_is_made_and_it_is_counted_for_how_long():
    traffic = Traffic(["bad"] * 4, DEAR)
    traffic.speed(300, traffic.chosen)
    assert traffic.chosen().limits == [0] * 4
    assert traffic.chooser.acceptance("bad").steps_off > 100


def test_only_those_take_part_whose_drafts_pay():
    traffic = Traffic(["good", "bad", "good", "bad"], DEAR)
    traffic.speed(300, traffic.chosen)
    assert [limit > 0 for limit in traffic.chosen().limits] == [True, False, True, False]
    assert traffic.chooser.acceptance("good").steps_off == 0


def test_a_draft_that_flatters_itself_is_found_out():
    traffic = Traffic(["good"], DEAR, honesty=0.05)
    traffic.speed(50, traffic.chosen)
    assert traffic.num_drafts > 0
    traffic.speed(100, traffic.chosen)
    assert traffic.chosen().limits == [0]


def test_speculation_comes_back_when_first_drafts_would_have_passed():
    traffic = Traffic(["bad"], DEAR)
    traffic.speed(200, traffic.chosen)
    assert traffic.chosen().limits == [0]
    traffic.chooser.acceptance("bad").watch([(0.95, 1.0)] * 100)
    assert [traffic.chosen().limits for _ in range(STEPS_PER_PLAN)][-1] == [4]
    traffic.chooser.acceptance("bad").watch([(0.95, 0.0)] * 200)
    assert [traffic.chosen().limits for _ in range(STEPS_PER_PLAN)][-1] == [0]


def test_a_plan_is_made_anew_after_some_steps_and_for_other_requests():
    asked, planner = [], Planner()

    def costs():
        asked.append(CHEAP)
        return CHEAP

    free = {0: Acceptance(4), 1: Acceptance(4)}
    for _ in range(STEPS_PER_PLAN + 1):
        planner.draft([4, 4], [0, 0], free, costs, [0, 0])
    assert len(asked) == 2
    planner.draft([4, 3], [0, 0], free, costs, [0, 0])
    planner.draft([4, 3], [1, 0], free, costs, [0, 0])
    planner.draft([4, 3], [1, 0], {0: free[0], 1: Acceptance(4)}, costs, [0, 0])
    assert len(asked) == 5


def test_a_moment_in_which_drafts_pay_is_no_reason_to_take_a_text_in():
    """Alone a request's drafts pay, beside others they do not; now and then it is alone for a step or two."""
    costs, middling, bad = {1: CHEAP, 4: DEAR}, acceptance([0.5] * 4), acceptance([0.05] * 4)
    planner = Planner()

    def limit(num_requests, pending):
        free = {i: bad if i else middling for i in range(num_requests)}
        size = [4] * num_requests, [0] * num_requests
        return planner.draft(*size, free, lambda: costs[num_requests], [pending] * num_requests).limits[0]

    assert limit(1, pending=0) > 0, "it pays"
    assert limit(4, pending=0) == 0, "it does not"
    for _ in range(50):
        assert [limit(1, pending=1000) for _ in range(2)] == [0, 0]
        assert limit(4, pending=1000) == 0
    alone = [limit(1, pending=1000) for _ in range(50)]
    assert alone[0] == 0
    assert alone[-1] > 0, "it has gone on paying"


def test_where_drafts_go_on_paying_no_request_waits():
    """The first one of a domain does, until what it has missed would have paid for its text; then others do not."""
    planner, free = Planner(), {0: acceptance([0.5] * 4)}
    plans = [planner.draft([4], [0], free, lambda: CHEAP, [1000]) for _ in range(30)]
    waited = sum(not drafting.limits[0] for drafting in plans)
    saved = plan([4], [0], free, CHEAP).saved[0]
    assert (waited + 1) * saved == pytest.approx(1000 * CHEAP.position, abs=saved)
    assert waited > 0
    both = {0: free[0], 1: free[0]}
    assert all(planner.draft([4, 4], [0, 0], both, lambda: CHEAP, [0, 1000]).limits)
    stranger = {0: free[0], 1: acceptance([0.5] * 4)}
    assert planner.draft([4, 4], [0, 0], stranger, lambda: CHEAP, [0, 1000]).limits == [4, 0]


def test_the_next_version_of_a_domain_that_drafts_pay_for_waits_no_longer():
    former = Chooser(4)
    former.acceptance("good").saved = 2.0
    assert Chooser(4, former).acceptance("good").saved == 2.0


def test_after_a_swap_a_text_is_taken_in_whether_it_pays_or_not():
    drafting = Planner().draft([4], [1], {0: acceptance([0.05] * 4)}, lambda: DEAR, [1000])
    assert drafting.limits == [1]


def test_those_are_let_through_that_are_worth_their_rows_together():
    """Of all choices among them the one with the most tokens, less what the rows are worth: tried one by one."""
    rng = random.Random(3)
    for costs in (CHEAP, DEAR, STEPPED):
        free = {i: Acceptance(4) for i in range(6)}
        drafting = chosen([2] * 6, [1, 0, 0, 0, 0, 0], free, costs)
        sure = [rng.random() for _ in range(6)]
        through = drafting.lets_through(0, range(6), sure)
        assert through[0], "the one that drafts anyway"

        def worth(places, costs=costs, sure=sure, speed=drafting._speed):
            chances = Acceptance(4).calibration.chances()
            tokens = sum(chances[int(sure[i] * 10)] for i in places)
            return tokens - speed * (costs.verify[1 + len(places)] - costs.verify[1])

        every = itertools.chain.from_iterable(itertools.combinations(range(1, 6), num) for num in range(6))
        assert worth([i for i in range(1, 6) if through[i]]) == pytest.approx(max(map(worth, every)))


def test_a_chain_ends_where_all_of_it_is_no_longer_likely():
    """Each draft is as sure as the one before it; that all of them pass is less and less likely."""
    free = {0: Acceptance(4)}
    for _ in range(100):
        free[0].observe([(0.65, 1.0), (0.65, 1.0), (0.65, 0.0)], 2)
    drafting = chosen([4], [0], free, DEAR)
    depths = [drafting.lets_through(depth, [0], [0.65]) for depth in range(4)]
    assert depths[0] == [True]
    assert depths[3] == [False]


def test_few_do_not_go_on_where_a_further_pass_is_dear():
    costs = StepCosts([1.0 + 0.01 * num for num in range(17)], first=0.05, further=0.2)
    traffic = Traffic(["good"] * 4, costs)
    traffic.speed(200, traffic.chosen)
    drafting = traffic.chosen()
    assert drafting.lets_through(0, range(4), [0.95] * 4) == [True] * 4
    assert drafting.going_on(1, range(4)) == [True] * 4
    assert drafting.going_on(1, [2]) == [False]


def test_after_a_swap_the_first_draft_is_made_whether_it_pays_or_not():
    traffic = Traffic(["bad"] * 2, DEAR)
    traffic.speed(200, traffic.chosen)
    assert traffic.chosen().limits == [0, 0]
    drafting = traffic.chosen(floors=[1, 0])
    assert drafting.limits[0] >= 1
    assert drafting.lets_through(0, [0], [0.05]) == [True]
    assert drafting.going_on(1, [0]) == [False]


def test_a_given_lookahead_is_kept_to():
    drafting = Drafting([2, 0, 1])
    assert drafting.lets_through(0, [0, 2], [0.01, 0.01]) == [True, True]
    assert drafting.going_on(1, [0, 2]) == [True, False]
    assert drafting.lets_through(1, [0], [0.01]) == [True]
    assert drafting.going_on(2, [0]) == [False]


def test_beside_given_lookaheads_only_what_comes_on_top_counts():
    """The draft's passes are made for the others anyway, and rows are as dear as behind theirs."""
    costs = StepCosts([1.0, 1.0, 1.0, 1.9, 1.9, 1.9], first=0.9, further=0.9)
    alone = chosen([2], [0], {0: Acceptance(2)}, costs)
    assert alone.limits == [0]
    beside_one = chosen([2, 1], [0, 1], {0: Acceptance(2)}, costs)
    assert beside_one.limits == [2, 1]
    beside_two = chosen([2, 2], [0, 2], {0: Acceptance(2)}, costs)
    assert beside_two.limits == [0, 2]
