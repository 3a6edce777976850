"""What is answered about pins, and to replicas, against the API's document."""

import pytest

from aurora_web.rollouts import replicas
from aurora_web.rollouts.intent import desired_state
from aurora_web.rollouts.obedience import board, pin_payload
from aurora_web.traces.domains import add_rules
from speculators.records import PIN_KINDS
from tests.unit.aurora_web.documented import Asker, as_json

pytestmark = pytest.mark.django_db
PIN = "/targets/{slug}/domains/{name}/pin"
SQL = {"slug": "demo", "name": "sql"}


@pytest.fixture
def pinned(ask, target, observed):
    """A rule for names, and a pin that one replica obeys, one refuses and one does not know yet."""
    add_rules(target, "prefix", ["team-"], "team", "ada")
    ask("PUT", PIN, {"lookahead": 3, "no_training": True, "reason": "noise"}, **SQL)
    for name, revision, obeyed in (("r1", 1, PIN_KINDS), ("r2", 1, ()), ("r3", 0, PIN_KINDS)):
        replicas.observe(observed(replica=name, pins_revision=revision, pins_obeyed=obeyed))


def test_pins_and_who_obeys_them(ask, target, pinned):
    found = ask("GET", "/targets/{slug}/pins", slug="demo")
    [held] = found["pins"]
    assert (found["revision"], held) == (1, as_json(pin_payload(board(target).pins[0])))
    assert (held["obeying"], held["lagging"], held["refusing"][0]["replica"]) == (["r1"], ["r3"], "r2")
    assert ask("GET", PIN, **SQL) == held


def test_changes_of_pins_and_an_undo(ask, pinned):
    undone = ask("POST", "/targets/{slug}/pins/{revision}/undo", slug="demo", revision=1)
    assert (undone["domain"], undone["revision"], undone["undoes"]) == ("sql", 2, 1)
    newest, first = ask("GET", "/targets/{slug}/pins/changes", slug="demo")
    assert (newest["undoes"], newest["is_newest"], first["is_newest"], first["reason"]) == (1, True, False, "noise")


def test_what_a_replica_should_run_with_pins_and_without(client, bearer, target, observed, pinned):
    ask = Asker(client, bearer("replica"))
    found = ask("GET", "/targets/{slug}/desired", query="?replica=r1", slug="demo")
    assert found == as_json(desired_state(target, target.replicas.get(name="r1")).to_json())
    assert [len(found["pins"][name]) for name in ("pins", "rules")] == [1, 1]
    replicas.observe(observed(replica="old", pins_revision=-1))
    assert "pins" not in ask("GET", "/targets/{slug}/desired", query="?replica=old", slug="demo")
