"""Pinning on the page about domains: the form, its errors, undo, and what the live page tells."""

import time
from html import unescape

import pytest

from aurora_web.console.timeline import timeline
from aurora_web.metrics import services as metrics
from aurora_web.rollouts import replicas
from aurora_web.traces import domains, pins
from speculators.records import PIN_KINDS, DomainPin
from tests.unit.aurora_web.conftest import count_window

pytestmark = pytest.mark.django_db
PAGE = "/targets/demo/domains/"


def post(client, **given):
    return client.post(PAGE, {"form": "pin"} | given)


def test_an_operator_pins_and_sees_it(target, clients):
    answer = post(clients["operator"], domain="sql", lookahead="3", no_training="on", reason="flaps")
    assert (answer.status_code, answer["location"]) == (302, f"{PAGE}#pins")
    text = clients["viewer"].get(PAGE).content.decode()
    assert "lookahead 3, no training" in text
    assert "no replica is alive" in text
    change = pins.held(target)["sql"]
    assert (change.actor, change.reason) == ("operator", "flaps")
    text = clients["operator"].get(PAGE).content.decode()
    assert "No request of this domain has been counted so far" in text


def test_a_rule_that_takes_requests_away_from_a_pin_warns_of_it(target, clients):
    def rule(domain, kind="prefix", pattern="json_"):
        given = {"kind": kind, "pattern": pattern, "domain": domain}
        return unescape(clients["operator"].post(PAGE, given, follow=True).content.decode())

    pins.pin(target, DomainPin("json_tools", speculation_off=True), "ada")
    page = rule("json")
    said = "Pinned json_tools: speculation off: what clients call json_tools is kept as json, which this pin does not"
    assert said in page and "meets no request" in page
    assert "In its place ends" not in page
    pins.pin(target, DomainPin("json", 2), "ada")
    page = rule("other")
    assert "is kept as other. In its place ends: prefix json_ -> json." in page
    assert "Pinned json: lookahead 2: the rule prefix json_ -> json has ended, and the pin does not hold" in page
    assert "but the rule prefix json_ -> json has ended since" in page  # at the pin itself
    assert "json_tools: speculation off" not in page.split("<h1>")[0]  # it had lost them before
    assert "Pinned" not in rule("x", "exact", "y").split("<h1>")[0]


def test_a_rule_that_is_made_again_as_it_was_warns_of_nothing(target, clients):
    domains.add_rules(target, "prefix", ["json_"], "json", "ada")
    pins.pin(target, DomainPin("json", 2), "ada")
    for kind in ("prefix", "regex"):  # the same again for a reason; and one that keeps other names as json too
        pattern = {"prefix": "json_", "regex": "yaml.*"}[kind]
        given = {"kind": kind, "pattern": pattern, "domain": "json", "reason": "why"}
        page = unescape(clients["operator"].post(PAGE, given, follow=True).content.decode())
        assert "is kept as json" in page
        assert "Pinned json" not in page and "has ended" not in page


def test_ending_a_rule_warns_of_a_pin_too(target, clients):
    [rule] = domains.add_rules(target, "prefix", ["json_"], "json", "ada")
    pins.pin(target, DomainPin("json", 2), "ada")
    answer = clients["operator"].post(f"{PAGE}rules/{rule.pk}/end/", follow=True)
    assert "the pin does not hold for its names any more" in unescape(answer.content.decode())


def test_a_viewer_is_refused_and_offered_nothing(target, clients):
    assert post(clients["viewer"], domain="sql", lookahead="3").status_code == 403
    assert not pins.held(target)
    assert 'id="pin-form"' not in clients["viewer"].get(PAGE).content.decode()


def test_the_address_chooses_the_domain_that_the_form_shows(target, clients):
    pins.pin(target, DomainPin("sql", 2, no_training=True), "ada")
    form = clients["operator"].get(PAGE + "?pin=sql").context["pin_form"]
    assert form.initial == {
        "domain": "sql", "lookahead": 2, "no_training": True, "seen_domain": "sql", "revision": 1,
    }  # fmt: skip
    assert '<option value="2" selected>' in str(form["lookahead"])
    assert clients["operator"].get(PAGE + "?pin=%00" + "x" * 300).status_code == 200


def test_bad_input_is_named_and_nothing_typed_is_lost(target, clients):
    answer = post(clients["operator"], domain="sql", lookahead="12", reason="because of this")
    assert answer.status_code == 422
    text = answer.content.decode()
    assert "12 cannot be pinned: expected off, or 1 to 4." in text
    assert 'value="because of this"' in text
    assert 'value="sql"' in text
    answer = post(clients["operator"], domain="sql")
    assert "nothing would be pinned" in answer.content.decode()
    assert not pins.held(target)


def test_no_choice_ends_a_pin(target, clients):
    pins.pin(target, DomainPin("sql", 2), "ada")
    assert post(clients["operator"], domain="sql", seen_domain="sql", revision="1").status_code == 302
    assert not pins.held(target)


def test_a_pin_that_somebody_has_changed_meanwhile_is_not_overwritten(target, clients):
    pins.pin(target, DomainPin("sql", 2), "ada")
    answer = post(clients["operator"], domain="sql", lookahead="4", seen_domain="sql", revision="0")
    assert answer.status_code == 422
    assert "Nothing was changed" in answer.content.decode()
    assert pins.held(target)["sql"].lookahead == 2
    post(clients["operator"], domain="prose", lookahead="4", seen_domain="sql", revision="0")  # about another one
    assert pins.held(target)["prose"].lookahead == 4


def test_undo_is_one_click_and_refused_when_it_is_too_late(target, clients):
    pins.pin(target, DomainPin("sql", 2), "ada")
    pins.pin(target, DomainPin("sql", speculation_off=True), "ada")
    answer = clients["operator"].post(f"{PAGE}pins/2/undo/", follow=True)
    assert "Revision 2 is undone. sql: lookahead 2." in answer.content.decode()
    answer = clients["operator"].post(f"{PAGE}pins/2/undo/", follow=True)
    assert "Nothing was changed" in answer.content.decode()
    assert pins.held(target)["sql"].lookahead == 2


def test_each_replica_that_cannot_obey_is_named_with_its_reason(target, clients, observed):
    pins.pin(target, DomainPin("sql", 2, no_training=True), "ada")
    replicas.observe(
        observed(replica="gpu1", pins_revision=1, pins_obeyed=("no_training",), pins_detail="it drafts for batches")
    )
    replicas.observe(observed(replica="gpu0", pins_revision=0, pins_obeyed=PIN_KINDS))
    text = " ".join(clients["viewer"].get(f"{PAGE}pins/").content.decode().split())
    assert "obeyed by 0 of 2 replicas" in text
    assert "not taken up yet by gpu0" in text
    assert "lookahead: not obeyed by gpu1 (aurora-embedded 0.1): it drafts for batches" in text


def test_a_lookahead_above_a_later_bound_is_said_to_be_cut(target, clients):
    pins.pin(target, DomainPin("sql", 4), "ada")
    target.max_lookahead = 2
    target.save()
    assert "largest lookahead is 2 now: that is used" in clients["viewer"].get(f"{PAGE}pins/").content.decode()


def test_the_live_page_tells_and_marks_each_change(target):
    since = time.time() - 1
    pins.pin(target, DomainPin("sql", 3), "ada", "flaps")
    pins.unpin(target, "sql", "bob")
    pins.undo(target, 2, "bob")
    told = [(e["kind"], e["text"]) for e in timeline(target, since, time.time() + 1) if e["kind"] == "pin"]
    assert told == [
        ("pin", "bob changed the pin of the domain sql back, to lookahead 3: undo of revision 2 by bob"),
        ("pin", "bob unpinned the domain sql"),
        ("pin", "ada pinned the domain sql: lookahead 3: flaps"),
    ]


def test_requests_pinned_to_no_speculation_are_on_neither_side_of_the_speedup(target):
    def row(version, lookahead, seconds):
        window = count_window(version=version, lookahead=lookahead, seconds=seconds)
        metrics.ingest_counts({"counts": [window.to_json()]})

    row(0, 0, 2.0)
    row(1, 4, 1.0)
    metrics.roll_up()
    before = metrics.summary(target)["total"]["speedup"]["value"]
    assert before == pytest.approx(2.0, rel=0.05)
    row(1, 0, 2.0)
    metrics.roll_up()
    assert metrics.summary(target)["total"]["speedup"]["value"] == pytest.approx(before)
