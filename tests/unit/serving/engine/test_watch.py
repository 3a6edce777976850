"""A draft that is off: what it would have said is counted, for a share of the time, and brings it back when it pays."""

from types import SimpleNamespace

import pytest

from serving.engine import watch
from serving.engine.acceptance import Acceptance
from serving.engine.costs import Costs, Parts
from serving.engine.engine import Engine
from serving.engine.stepper import Stepper
from tests.unit.serving.engine.running import engine_of, of_plain_draft, submit

DEAR = Parts(verify={1: 1.0, 2: 50.0, 9: 400.0}, first={1: 0.1}, further={1: 0.08}, position=0.01)
LIKE_ITSELF = Parts(verify={1: 1.0, 9: 1.6}, first={1: 0.1}, further={1: 0.08}, position=0.01)
PROMPTS = [(7, 3, 20, 5), (1, 2), (40, 41, 9, 8, 30, 22, 11)]


@pytest.fixture
def costing(monkeypatch):
    """costing(parts): steps cost this, whatever the machine does; every second or so is followed by a look."""
    monkeypatch.setattr(watch, "SHARE", 1.0)

    def set_parts(parts):
        monkeypatch.setattr(Engine, "measure_costs", lambda self: Costs(parts))
        monkeypatch.setattr(Costs, "observe", lambda self, *step: None)

    return set_parts


@pytest.fixture
def looks(monkeypatch):
    """What every look was about, and what it found."""
    found, honest = [], Stepper.look

    def look(self, sequence, num):
        seen = honest(self, sequence, num)
        found.append((list(sequence.tokens), sequence.request.sampling.temperature, num, seen))
        return seen

    monkeypatch.setattr(Stepper, "look", look)
    return found


@pytest.mark.parametrize("draft", ["good", "small_vocabulary"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_look_finds_what_the_plain_draft_would_have_said(tiny, request, costing, looks, draft, temperature):
    costing(DEAR)
    folder = request.getfixturevalue(draft)
    with engine_of(tiny[0], probe_steps=1) as engine:
        engine.swap(1, engine.load_draft(folder)).result(60)
        sampling = {"max_tokens": 60, "ignore_eos": True, "temperature": temperature, "seed": 3}
        [waiter.result() for waiter in [submit(engine, prompt, **sampling) for prompt in PROMPTS]]
    assert len(looks) > 1
    assert {len(seen) == num >= watch.LEAST_POSITIONS for _, _, num, seen in looks} == {True}
    for tokens, _, num, seen in looks:
        sure, passed = of_plain_draft(tiny[1], folder, tokens, temperature, num)
        assert [confidence for confidence, _ in seen] == pytest.approx(sure, abs=2e-2)
        assert [chance for _, chance in seen] == pytest.approx(passed, abs=2e-2)
    if draft == "good":
        chances = [chance for *_, seen in looks for _, chance in seen]
        assert 0.2 < sum(chances) / len(chances) < 1


def test_garbage_stays_off_and_is_seen_to_be_garbage(tiny, garbage, costing, looks):
    costing(DEAR)
    with engine_of(tiny[0], probe_steps=1) as engine:
        engine.swap(1, engine.load_draft(garbage)).result(60)
        finished = [submit(engine, prompt, max_tokens=100, ignore_eos=True).result() for prompt in PROMPTS]
        acceptance = engine._versions.chooser.acceptance("default")
    assert sum(len(step.proposed) for each in finished for step in each.steps) == 1  # the first one after the swap
    assert looks
    assert acceptance.rates()[0] < 0.2


def test_a_draft_that_has_become_right_comes_back_by_itself(tiny, good, costing, looks):
    costing(LIKE_ITSELF)
    with engine_of(tiny[0], probe_steps=1) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        bad = engine._versions.chooser.acceptance("default")
        bad.watch([((i % 10 + 0.5) / 10, 0.0) for i in range(600)])
        sampling = {"max_tokens": 100, "ignore_eos": True, "temperature": 1.0}
        finished = [submit(engine, (i, 5), seed=i, **sampling).result() for i in range(8)]
    drafted = [[len(step.proposed) > 0 for step in each.steps] for each in finished]
    assert sum(drafted[0][:5]) <= 1  # the first one after the swap
    assert sum(drafted[-1]) > 10
    assert looks


def test_what_is_pinned_or_fixed_or_the_control_is_not_watched(tiny, good, costing, looks):
    costing(DEAR)
    with engine_of(tiny[0], control_share=1.0) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        submit(engine, (1, 2), max_tokens=40, ignore_eos=True, is_control=None).result()
    with engine_of(tiny[0], fixed_lookahead=0) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        submit(engine, (1, 2), max_tokens=40, ignore_eos=True).result()
    assert looks == []


def test_looks_take_their_share_of_the_time(monkeypatch):
    now, num_looks = [0.0], 0
    monkeypatch.setattr(watch.time, "perf_counter", lambda: now[0])

    def look(sequence, num):
        now[0] += 0.04
        return [(0.9, 1.0)] * num

    sequence = SimpleNamespace(num_watchable=40, num_pending=40)
    watching, seconds, steps = watch.Watch(), 0.0, 40_000
    for _ in range(steps):
        looked = watching.look([sequence], [Acceptance(4)], SimpleNamespace(look=look))
        seconds, num_looks = seconds + looked, num_looks + bool(looked)
        watching.save(0.02 + looked)
    assert num_looks > 5
    assert seconds / (steps * 0.02) == pytest.approx(watch.SHARE, rel=0.05)


def test_the_domain_that_has_been_off_for_longest_is_looked_at_where_it_costs_least():
    waited, fresh = Acceptance(4, steps_off=9), Acceptance(4, steps_off=2)
    off = [SimpleNamespace(num_watchable=n, num_pending=p) for n, p in [(50, 60), (20, 90), (20, 70), (3, 4)]]
    assert watch.most_telling(off, [fresh, waited, waited, waited]) == 2
    assert watch.most_telling(off[3:], [waited]) is None
    assert watch.most_telling([], []) is None
