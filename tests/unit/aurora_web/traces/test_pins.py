"""Pins: what may be fixed, what every change leaves behind, and what the trainer may touch."""

import uuid

import pytest
from django.db import IntegrityError, transaction

from aurora_web.accounts.models import AuditEvent
from aurora_web.traces import domains, pins, services
from aurora_web.traces.models import PinChange, Trace
from aurora_web.training.selection import replay_ids
from speculators.records import DomainPin, NameRule
from tests.unit.aurora_web.conftest import segment_payload

pytestmark = pytest.mark.django_db


def words(target):
    return {domain: change.words for domain, change in pins.held(target).items()}


def test_a_pin_holds_until_it_is_changed_and_each_change_is_a_revision(target):
    assert pins.desired_pins(target).revision == 0
    pins.pin(target, DomainPin("sql", 3), "ada", "the chooser flaps")
    pins.pin(target, DomainPin("prose", no_training=True), "bob")
    pins.pin(target, DomainPin("sql", speculation_off=True, no_training=True), "bob")
    assert words(target) == {"sql": "speculation off, no training", "prose": "no training"}
    assert [change.revision for change in PinChange.objects.all()] == [3, 2, 1]
    wire = pins.desired_pins(target)
    assert wire.revision == 3
    assert set(wire.pins) == {DomainPin("sql", None, True, True), DomainPin("prose", no_training=True)}


def test_every_change_is_in_the_audit_log_with_before_and_after(target):
    pins.pin(target, DomainPin("sql", 3), "ada", "flaps")
    pins.pin(target, DomainPin("sql", 2), "bob")
    pins.unpin(target, "sql", "eve", "mended")
    last, second, first = AuditEvent.objects.filter(action__startswith="domain.").order_by("-id")
    assert (first.actor, first.subject, first.target_slug, first.reason) == ("ada", "sql", "demo", "flaps")
    assert (second.before["lookahead"], second.after["lookahead"]) == (3, 2)
    assert (last.action, last.after["lookahead"]) == ("domain.unpin", None)


def test_the_same_again_is_no_change(target):
    first = pins.pin(target, DomainPin("sql", 3), "ada")
    assert pins.pin(target, DomainPin("sql", 3), "bob") == first
    assert PinChange.objects.count() == 1


def test_undo_brings_back_what_held_before_and_can_be_undone(target):
    pins.pin(target, DomainPin("sql", 3), "ada")
    pins.pin(target, DomainPin("sql", speculation_off=True), "bob")
    pins.unpin(target, "sql", "eve")
    pins.undo(target, 3, "ada")
    assert words(target) == {"sql": "speculation off"}
    pins.undo(target, 4, "ada")
    assert words(target) == {}
    newest = pins.newest_of(target, "sql")
    assert (newest.revision, newest.undoes, newest.reason) == (5, 4, "undo of revision 4 by ada")


def test_the_first_pin_undone_pins_nothing(target):
    pins.pin(target, DomainPin("sql", 3), "ada")
    pins.undo(target, 1, "ada")
    assert words(target) == {}


def test_an_undo_that_comes_too_late_changes_nothing(target):
    pins.pin(target, DomainPin("sql", 3), "ada")
    pins.pin(target, DomainPin("sql", 4), "bob")
    with pytest.raises(pins.PinChanged, match=r"bob changed it to: lookahead 4 \(revision 2\)"):
        pins.undo(target, 1, "ada")
    with pytest.raises(pins.PinChanged, match="no change of pins with the revision 9"):
        pins.undo(target, 9, "ada")
    assert words(target) == {"sql": "lookahead 4"}


def test_a_change_of_what_somebody_else_has_changed_is_refused(target):
    pins.pin(target, DomainPin("sql", 3), "ada", expected=0)
    with pytest.raises(pins.PinChanged, match="ada changed it"):
        pins.pin(target, DomainPin("sql", 4), "bob", expected=0)
    with pytest.raises(pins.PinChanged, match="nothing is pinned for prose"):
        pins.unpin(target, "prose", "bob")


@pytest.mark.parametrize(
    ("wanted", "field", "named"),
    [
        (DomainPin("sql", 9), "lookahead", "9 cannot be pinned: expected 1 to 6"),
        (DomainPin("sql", 7), "lookahead", "7 cannot be pinned: expected 1 to 6"),
        (DomainPin("sql", 0), "lookahead", "to draft nothing, pin speculation off"),
        (DomainPin("sql", -1), "lookahead", "-1 cannot be pinned"),
        (DomainPin("sql", 2, speculation_off=True), "lookahead", "2 has no effect while speculation is off"),
        (DomainPin("sql"), "lookahead", "nothing would be pinned"),
        (DomainPin("", 2), "domain", "expected 1 to 100 characters"),
        (DomainPin("x" * 101, 2), "domain", "expected 1 to 100 characters"),
        (DomainPin("a\0b", 2), "domain", "is no domain"),
    ],
)
def test_what_cannot_be_pinned_names_field_value_and_what_would_be_right(target, wanted, field, named):
    target.max_lookahead = 6
    with pytest.raises(pins.PinError) as error:
        pins.pin(target, wanted, "ada")
    assert error.value.field == field
    assert named in error.value.message
    assert not PinChange.objects.exists()


def test_a_name_that_the_rules_turn_into_another_one_is_refused(target):
    domains.add_rules(target, "exact", ["mysql"], "database", "ada")
    with pytest.raises(pins.PinError, match="'mysql' is kept as 'database'"):
        pins.pin(target, DomainPin("mysql", 2), "ada")
    pins.pin(target, DomainPin("database", 2), "ada")
    assert pins.desired_pins(target).rules == (NameRule("exact", "mysql", "database"),)


def test_rules_travel_only_where_something_is_pinned(target):
    domains.add_rules(target, "exact", ["mysql"], "database", "ada")
    assert pins.desired_pins(target).rules == ()


def test_traces_that_are_there_already_wait_while_no_training_holds(target):
    for domain in ("sql", "prose"):
        services.ingest_segment(segment_payload(3, domain=domain))
    Trace.objects.update(is_held_out=False)
    pins.pin(target, DomainPin("sql", no_training=True), "ada")
    assert services.count_fresh(target, 100)[0] == 3
    leased = services.lease_fresh(target, uuid.uuid4(), 100, 60)
    assert set(Trace.objects.filter(trace_id__in=leased).values_list("domain", flat=True)) == {"prose"}
    pins.unpin(target, "sql", "ada")
    assert len(services.lease_fresh(target, uuid.uuid4(), 100, 60)) == 3


def test_what_was_trained_on_is_not_replayed_while_no_training_holds(target):
    services.ingest_segment(segment_payload(3, domain="sql"))
    lease = uuid.uuid4()
    Trace.objects.update(is_held_out=False)
    services.acknowledge(lease, services.lease_fresh(target, lease, 100, 60), [])
    assert len(replay_ids(target, 10, 0)) == 3
    pins.pin(target, DomainPin("sql", no_training=True), "ada")
    assert replay_ids(target, 10, 0) == []


@pytest.mark.parametrize("change", ["update", "delete"])
def test_the_database_refuses_to_change_history(target, change):
    pins.pin(target, DomainPin("sql", 3), "ada")
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        PinChange.objects.update(actor="eve") if change == "update" else PinChange.objects.all().delete()
