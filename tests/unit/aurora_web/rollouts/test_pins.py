"""Pins on their way to replicas, what the replicas say about them, and the API."""

import json

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from aurora_web.accounts.models import AuditEvent
from aurora_web.rollouts import replicas
from aurora_web.rollouts.obedience import board
from aurora_web.traces import domains, pins
from speculators.records import PIN_KINDS, DesiredState, DomainPin, ObservedState, RecordError

pytestmark = pytest.mark.django_db
JSON = {"content_type": "application/json"}
PAGE = "/targets/demo/"
ADDRESS = "/api/v1/targets/demo/domains/sql/pin"
SGLANG = "SGLang drafts for a batch as a whole"


def says(observed, name, revision, **more):
    """A replica reports; its answer."""
    facts = {"pins_obeyed": PIN_KINDS} | more
    return replicas.observe(observed(replica=name, pins_revision=revision, **facts))


def test_the_answer_to_a_report_carries_them(target, observed):
    pins.pin(target, DomainPin("sql", 3, no_training=True), "ada")
    answer = says(observed, "r1", 0)
    assert answer.pins.revision == 1
    assert answer.pins.pins == (DomainPin("sql", 3, no_training=True),)
    assert DesiredState.from_json(json.loads(json.dumps(answer.to_json()))) == answer


def test_a_replica_from_before_pins_is_not_sent_the_field(target, observed, client, bearer):
    pins.pin(target, DomainPin("sql", 3), "ada")
    payload = observed(replica="old").to_json()
    for name in ("pins_revision", "pins_obeyed", "pins_detail"):
        del payload[name]
    answer = client.post("/api/v1/ingest/observed", json.dumps(payload), **JSON, **bearer("replica"))
    assert answer.status_code == 200
    assert "pins" not in answer.json()
    [found] = board(target).pins
    assert found.refusing[0].reason == "its software knows of no pins"


def test_who_obeys_who_lags_and_who_cannot(target, observed):
    pins.pin(target, DomainPin("sql", 3, no_training=True), "ada")
    for name, revision in (("r1", 1), ("r2", 0)):
        says(observed, name, revision)
    says(observed, "s1", 1, pins_obeyed=("no_training",), pins_detail=SGLANG)
    [found] = board(target).pins
    assert (found.obeying, found.lagging) == (("r1",), ("r2",))
    assert [(r.replica, r.kinds, r.reason) for r in found.refusing] == [("s1", ("lookahead",), SGLANG)]
    assert found.words == "obeyed by 1 of 3 replicas"
    says(observed, "r2", 1)
    assert board(target).pins[0].words == "obeyed by 2 of 3 replicas"


def test_a_pin_whose_name_a_rule_has_taken_since_says_so(target, observed):
    pins.pin(target, DomainPin("sql", 3), "ada")
    says(observed, "r1", 1)
    [rule] = domains.add_rules(target, "exact", ["sql"], "queries", "ada")
    [found] = board(target).pins
    assert (found.is_whole, found.words, found.renamed) == (False, "meets no request", "queries")
    domains.end_rule(rule, "ada")
    [found] = board(target).pins
    assert (found.is_whole, found.renamed) == (True, "")


def test_a_pin_that_some_of_its_requests_do_not_meet_any_more_says_so(target, observed):
    domains.add_rules(target, "prefix", ["json_"], "json", "ada")
    pins.pin(target, DomainPin("json", 3), "ada")
    says(observed, "r1", 1)
    assert board(target).pins[0].is_whole
    domains.add_rules(target, "prefix", ["json_"], "other", "ada")  # instead of the other rule
    [found] = board(target).pins
    assert (found.is_whole, found.words) == (False, "obeyed by 1 of 1 replica")
    assert found.stray == "the rule prefix json_ -> json has ended since: its names are not kept as that any more"
    domains.add_rules(target, "exact", ["js"], "json", "ada")
    assert board(target).pins[0].stray == found.stray  # what another rule gives is not what the pin was made for
    domains.add_rules(target, "exact", ["json"], "other", "ada")
    [found] = board(target).pins
    assert found.stray == "what clients call json themselves is kept as other by a rule for names"


def test_a_pin_of_several_rules_says_when_one_of_them_has_ended_and_when_its_names_are_back(target, observed):
    rules = domains.add_rules(target, "exact", ["a", "b"], "json", "ada")
    pins.pin(target, DomainPin("json", 3), "ada")
    says(observed, "r1", 1)
    domains.end_rule(rules[0], "ada")
    [found] = board(target).pins
    assert (found.is_whole, found.stray) == (
        False,
        "the rule exact a -> json has ended since: its names are not kept as that any more",
    )
    domains.add_rules(target, "exact", ["a"], "json", "ada")
    assert board(target).pins[0].is_whole
    domains.add_rules(target, "exact", ["b"], "json", "ada", "the same once more")
    assert board(target).pins[0].is_whole
    domains.add_rules(target, "exact", ["b"], "other", "ada")
    assert board(target).pins[0].stray.startswith("the rule exact b -> json has ended since")


def test_a_rule_that_stands_before_that_of_a_pin_is_named_at_the_pin(target):
    domains.add_rules(target, "prefix", ["json_"], "json", "ada")
    pins.pin(target, DomainPin("json", 3), "ada")
    domains.add_rules(target, "exact", ["json_x"], "other", "ada")
    [found] = board(target).pins
    assert found.stray == "the rule exact json_x -> other takes names from the rule prefix json_ -> json since"


def test_a_pin_that_is_made_again_is_made_for_the_requests_of_now(target):
    [rule] = domains.add_rules(target, "exact", ["a"], "json", "ada")
    pins.pin(target, DomainPin("json", 3), "ada")
    domains.end_rule(rule, "ada")
    again = pins.pin(target, DomainPin("json", 3), "bob", "as it is")
    assert (again.revision, board(target).pins[0].stray) == (2, "")
    assert pins.pin(target, DomainPin("json", 3), "eve") == again


@pytest.mark.parametrize(
    "address", ["/targets/demo/domains/", "/targets/demo/domains/pins/", "/api/v1/targets/demo/pins"]
)
def test_five_pins_take_no_more_questions_than_one(target, observed, clients, address):
    rules = domains.add_rules(target, "exact", ["a", "b", "c"], "a", "ada")
    pins.pin(target, DomainPin("a", 3), "ada")
    says(observed, "r1", 1)
    domains.end_rule(rules[1], "ada")

    def asked():
        clients["viewer"].get(address)  # what is remembered is remembered
        with CaptureQueriesContext(connection) as queries:
            assert clients["viewer"].get(address).status_code == 200
        return len(queries)

    one = asked()
    for number, name in enumerate(("b", "d", "e", "f")):
        pins.pin(target, DomainPin(name, number + 1), "ada")
        domains.add_rules(target, "prefix", [f"{name}_"], name, "ada")
    assert asked() == one
    assert len(board(target).pins) == 5


@pytest.mark.parametrize("name", ["Team A", " sql", "sql ", "x" * 65])
def test_a_name_that_no_request_has_is_not_pinned(target, name):
    with pytest.raises(pins.PinError, match="is the name of no request: expected 1 to 64 of a-z"):
        pins.pin(target, DomainPin(name, 3), "ada")
    domains.add_rules(target, "exact", ["sql"], name, "ada")
    assert pins.pin(target, DomainPin(name, 3), "ada").revision == 1


def test_what_a_server_can_obey_is_obeyed_by_it(target, observed):
    pins.pin(target, DomainPin("sql", no_training=True), "ada")
    says(observed, "s1", 1, pins_obeyed=("no_training",), pins_detail=SGLANG)
    assert board(target).pins[0].is_whole


def test_a_later_pin_of_another_domain_does_not_make_this_one_lag(target, observed):
    pins.pin(target, DomainPin("sql", 3), "ada")
    says(observed, "r1", 1)
    pins.pin(target, DomainPin("prose", 2), "ada")
    found = board(target)
    assert [each.is_whole for each in found.pins] == [False, True]  # prose, sql
    assert found.words == "revision 2 is run by 0 of 1 replica"
    target.replicas.update(is_alive=False)
    assert board(target).pins[0].words == "no replica is alive"


@pytest.mark.parametrize("wrong", [{"pins_revision": -2}, {"pins_obeyed": ("x" * 33,)}])
def test_a_report_that_makes_no_sense_is_refused(target, observed, wrong):
    with pytest.raises(RecordError, match=next(iter(wrong))):
        replicas.observe(observed(**wrong))
    assert ObservedState.from_json(observed().to_json()).pins_revision == -1


def test_the_api_pins_reads_and_unpins(target, client, bearer, observed):
    operator = bearer("operator")
    assert client.get(ADDRESS, **operator).status_code == 404
    body = {"lookahead": 3, "no_training": True, "reason": "a noisy tenant"}
    answer = client.put(ADDRESS, json.dumps(body), **JSON, **operator)
    assert answer.status_code == 200
    assert answer.json() == client.get(ADDRESS, **operator).json()
    assert (answer.json()["lookahead"], answer.json()["revision"], answer.json()["actor"]) == (3, 1, "token:operator's")
    says(observed, "r1", 1)
    listed = client.get("/api/v1/targets/demo/pins", **operator).json()
    assert (listed["revision"], listed["pins"][0]["obeying"]) == (1, ["r1"])
    assert client.delete(f"{ADDRESS}?reason=a%00b", **operator).status_code == 422
    assert client.delete(f"{ADDRESS}?reason={'x' * 900}", **operator).status_code == 204
    assert len(AuditEvent.objects.latest("pk").reason) == 500
    assert client.delete(ADDRESS, **operator).status_code == 404
    assert client.delete(ADDRESS.replace("sql", "%00"), **operator).status_code == 404
    assert pins.held(target) == {}


def test_the_api_refuses_with_the_field_and_with_409_where_it_has_changed(target, client, bearer):
    operator = bearer("operator")

    def put(**body):
        return client.put(ADDRESS, json.dumps(body), **JSON, **operator)

    for body, field in (({"lookahead": 40}, "lookahead"), ({}, "lookahead")):
        answer = put(**body)
        assert (answer.status_code, answer.json()["field"]) == (422, field)
        assert answer["content-type"] == "application/problem+json"
    assert put(lookahead="many").status_code == 422
    assert put(lookahead=2, expected_revision=0).status_code == 200
    answer = put(lookahead=3, expected_revision=0)
    assert (answer.status_code, "revision 1" in answer.json()["detail"]) == (409, True)


def test_a_name_with_a_slash_has_an_address_too(target, client, bearer):
    domains.add_rules(target, "exact", ["team_a_b"], "team/a/b", "ada")  # no client can call a domain that
    address = "/api/v1/targets/demo/domains/team/a%2Fb/pin"
    assert client.put(address, json.dumps({"speculation_off": True}), **JSON, **bearer("operator")).status_code == 200
    assert set(pins.held(target)) == {"team/a/b"}


def test_a_change_is_undone_by_the_api_while_it_is_the_newest(target, client, bearer):
    client.put(ADDRESS, json.dumps({"lookahead": 3}), **JSON, **bearer("operator"))
    client.put(ADDRESS, json.dumps({"lookahead": 2}), **JSON, **bearer("operator"))
    undo = "/api/v1/targets/demo/pins/{}/undo".format
    stale = client.post(undo(1), **bearer("operator"))
    assert stale.status_code == 409 and "revision 2" in stale.json()["detail"]
    assert client.post(undo(2), **bearer("viewer")).status_code == 403
    done = client.post(undo(2), **bearer("operator"))
    assert (done.status_code, done.json()["domain"], done.json()["undoes"]) == (200, "sql", 2)
    assert client.get(ADDRESS, **bearer("viewer")).json()["lookahead"] == 3
    assert client.post(undo(9), **bearer("operator")).status_code == 409


def test_the_last_changes_are_in_the_api_with_what_can_be_undone(target, client, bearer):
    for lookahead in (1, 2):
        pins.pin(target, DomainPin("sql", lookahead=lookahead), "olga", "too long")
    pins.unpin(target, "sql", "ada")
    address = "/api/v1/targets/demo/pins/changes"
    found = client.get(f"{address}?limit=2", **bearer("viewer")).json()
    assert [(each["revision"], each["is_newest"], each["actor"]) for each in found] == [
        (3, True, "ada"),
        (2, False, "olga"),
    ]
    assert (found[1]["domain"], found[1]["reason"], "lookahead 2" in found[1]["words"]) == ("sql", "too long", True)
    assert client.get(f"{address}?limit=0", **bearer("viewer")).status_code == 422
