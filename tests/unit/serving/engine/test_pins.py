"""What a pin does to requests, seen in their step records and in the engine's counters."""

import pytest

from serving.engine.pins import UNPINNED, Pins
from speculators.records import DomainPin, DomainPins, NameRule
from tests.unit.serving.engine.running import engine_of, output, submit

PROMPT = (1, 2, 3, 4, 5)


def pinned(*pins, rules=(), revision=1):
    return DomainPins(revision, pins, rules)


def widths(finished):
    """Drafts per step, as long as more tokens are left to generate than any step may propose."""
    found, num_left = set(), len(output(finished)) - 1  # the first one comes from the prefill
    for step in finished.steps:
        if num_left > 8:
            found.add(len(step.proposed))
        num_left -= step.num_correct_drafts + 1
    return found


@pytest.fixture(scope="module")
def engine(tiny, good):
    with engine_of(tiny[0], max_lookahead=6) as found:
        found.swap(1, found.load_draft(good)).result(60)
        yield found
        found.pins.replace(DomainPins())


def run(engine, domain, **options):
    return submit(engine, PROMPT, domain=domain, max_tokens=60, ignore_eos=True, **options)


def test_a_fixed_lookahead_is_drafted_in_every_step(engine):
    engine.pins.replace(pinned(DomainPin("sql", 1)))
    finished = run(engine, "sql").result()
    assert widths(finished) == {1}
    assert (finished.version, finished.lookahead) == (1, 1)
    assert finished.num_proposed_drafts >= finished.num_verify_steps - 1


def test_no_speculation_proposes_nothing_while_its_neighbours_draft(engine, slow_steps):
    engine.pins.replace(pinned(DomainPin("sql", speculation_off=True), DomainPin("prose", 3)))
    before = engine.stats().num_proposed_drafts
    sql, prose = [run(engine, name) for name in ("sql", "prose")]
    sql, prose = sql.result(), prose.result()
    assert sql.num_proposed_drafts == 0
    assert sql.num_verify_steps == 59  # a token a step
    assert (sql.version, sql.lookahead) == (1, 0)  # version 1, so that it is no part of the control
    assert widths(prose) == {3}
    assert prose.mean_batch_size > 1.5  # they were in the same steps
    assert engine.stats().num_proposed_drafts - before == prose.num_proposed_drafts


def test_the_policys_bound_is_above_a_pin(engine):
    engine.pins.replace(pinned(DomainPin("sql", 8)))
    assert max(widths(run(engine, "sql").result())) == 6


def test_a_pin_is_about_requests_admitted_from_then_on(engine):
    engine.pins.replace(pinned(DomainPin("sql", 2)))
    waiter = run(engine, "sql")
    assert waiter.started.wait(60)
    engine.pins.replace(pinned(DomainPin("sql", speculation_off=True), revision=2))
    assert widths(waiter.result()) == {2}
    assert run(engine, "sql").result().num_proposed_drafts == 0


def test_what_is_unpinned_is_chosen_by_the_engine_again(engine):
    engine.pins.replace(pinned(DomainPin("sql", speculation_off=True)))
    run(engine, "sql").result()
    engine.pins.replace(pinned(revision=2))
    assert run(engine, "sql").result().lookahead == 6


def test_no_control_is_drawn_where_speculation_is_off(tiny, good):
    told = []
    with engine_of(tiny[0], control_share=1.0, on_control=lambda *a: told.append(a)) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        engine.pins.replace(pinned(DomainPin("sql", speculation_off=True)))
        long = {"is_control": None, "max_tokens": 40, "ignore_eos": True}
        waiters = [submit(engine, PROMPT, domain=domain, **long) for domain in ("sql", "prose")]
        sql, prose = (waiter.result() for waiter in waiters)
    assert sql.parts is None, "counted under its version, with lookahead 0: on neither side"
    assert prose.parts == ()
    assert {domain for domain, _ in told} == {"prose"}
    assert sum(part.num_verify_steps for _, part in told) == prose.num_verify_steps == 39


def test_clients_names_are_resolved_as_at_ingest(engine):
    rules = (NameRule("exact", "mysql", "database"), NameRule("regex", "pg[0-9]+", "database"))
    engine.pins.replace(pinned(DomainPin("database", 2), rules=rules))
    assert widths(run(engine, "pg14").result()) == {2}
    assert engine.pins.of("mysql").lookahead == 2
    assert engine.pins.of("oracle") is UNPINNED
    assert engine.pins.of("database").lookahead == 2


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (pinned(DomainPin("sql", 17)), "lookahead 17"),
        (pinned(DomainPin("sql", 0)), "lookahead 0"),
        (pinned(DomainPin("sql", 2), rules=(NameRule("regex", "a(", "b"),)), "character"),
        (pinned(DomainPin("sql", 2), rules=(NameRule("glob", "a", "b"),)), "glob"),
    ],
)
def test_what_cannot_be_used_is_refused_and_changes_nothing(given, named):
    pins = Pins()
    pins.replace(pinned(DomainPin("sql", 3)))
    with pytest.raises(ValueError, match=named):
        pins.replace(given)
    assert pins.of("sql").lookahead == 3
