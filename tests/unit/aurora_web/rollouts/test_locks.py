"""Decisions and reports at the same moment: each finds what the one before it left, and none waits in a ring."""

import threading
from datetime import timedelta

import psycopg
import pytest
from django.db import connection, transaction
from django.utils import timezone

from aurora_web.registry import services as registry
from aurora_web.registry.models import SpeculatorVersion, Status
from aurora_web.registry.services import StaleVersion, find_version
from aurora_web.registry.signals import candidate_registered
from aurora_web.retention import services as retention
from aurora_web.rollouts import canaries, replicas, services
from aurora_web.rollouts.intent import RolloutError
from aurora_web.rollouts.models import Deployment, Replica, Swap
from aurora_web.traces import domains, pins
from speculators.records import DomainPin
from tests.unit.aurora_web.rollouts.beside import Beside, overtaken

pytestmark = pytest.mark.django_db(transaction=True)


def numbers(target, status):
    return sorted(target.versions.filter(status=status).values_list("number", flat=True))


def wanted(target):
    row = Deployment.objects.select_related("desired", "canary").get(target=target)
    return row.desired and row.desired.number, row.canary and row.canary.number


def test_of_two_approvals_at_once_one_starts_a_canary_and_the_other_is_told_of_it(target, two_wait):
    older, newer = two_wait
    with pytest.raises(RolloutError, match="demo v3 is in canary"):
        overtaken(lambda: services.approve(older, "ann"), lambda: services.approve(newer, "ben"))
    assert (numbers(target, Status.CANARY), numbers(target, Status.PASSED)) == ([3], [4])
    assert wanted(target) == (2, 3)


def test_a_rollback_beside_an_approval_ends_the_canary_that_it_began(target, two_wait):
    overtaken(lambda: services.approve(two_wait[0], "ann"), lambda: services.rollback(target, "ben"))
    assert (numbers(target, Status.CANARY), numbers(target, Status.ROLLED_BACK)) == ([], [2, 3])
    assert wanted(target) == (1, None)


def test_a_rollback_of_somebody_who_saw_no_canary_is_stopped_by_the_one_that_has_just_begun(target, two_wait):
    with pytest.raises(StaleVersion, match="demo v3 is in canary now"):
        overtaken(
            lambda: services.approve(two_wait[0], "ann"),
            lambda: services.rollback(target, "ben", expected_live=2, expected_canary=0),
        )
    assert wanted(target) == (2, 3)


def test_a_candidate_judged_while_another_is_promoted_leaves_the_promoted_one_in_service(
    target, canary, make_version, report, monkeypatch
):
    monkeypatch.setattr(candidate_registered, "send", lambda **given: None)  # the beat judges it
    candidate = make_version(report({"sql": (3.5, 3.0)}))
    overtaken(lambda: canaries.promote(canary, "ann"), lambda: services.judge(candidate))
    assert (numbers(target, Status.LIVE), numbers(target, Status.CANARY)) == ([3], [4])
    assert wanted(target) == (3, 4)


def test_rollbacks_one_upon_another_say_truly_what_each_replaced(target, two_wait):
    services.approve(two_wait[0], "ann")
    canaries.promote(SpeculatorVersion.objects.get(pk=two_wait[0].pk), "ann")
    overtaken(lambda: services.rollback(target, "ann"), lambda: services.rollback(target, "ben"))
    assert list(Swap.objects.values_list("old_number", "number")[:2]) == [(2, 1), (3, 2)]


def test_files_are_not_deleted_of_a_version_that_somebody_brings_back_at_that_moment(target, two_wait):
    services.approve(two_wait[0], "ann")
    canaries.promote(SpeculatorVersion.objects.get(pk=two_wait[0].pk), "ann")
    services.rollback(target, "ann")  # v3 is rolled back now, and may be brought back
    retention.change({"num_versions": 2}, "ann", is_confirmed=True)
    for number in (5, 6):
        SpeculatorVersion.objects.create(target=target, number=number, uri="/nowhere", sha256="0", size_bytes=1)
    overtaken(
        lambda: services.rollback(target, "ben", to="3"),
        lambda: replicas.prune(target, timezone.now() + timedelta(days=1)),
    )
    assert find_version(target, "@live").number == 3
    assert find_version(target, "@live").pruned_at is None


def test_a_report_and_the_start_of_a_canary_do_not_wait_for_each_other(target, two_wait, observed, monkeypatch):
    """The report holds its replica and asks for its target's key when it commits; the start comes the other way."""
    name = canaries.plan(target).replicas[0].name
    reached, go_on = threading.Event(), threading.Event()
    inner = replicas.add_capture

    def held(*given):
        inner(*given)
        reached.set()
        assert go_on.wait(60)

    monkeypatch.setattr(replicas, "add_capture", held)
    replicas_report = Beside(lambda: replicas.observe(observed(replica=name, generation=2, version=2, num_traces=5)))
    assert reached.wait(60)
    decision = Beside(lambda: services.approve(two_wait[0], "ann"))
    decision.wait_until_blocked()
    go_on.set()
    assert replicas_report.result().target == "demo"
    assert decision.result().generation == 3
    assert Replica.objects.get(name=name).num_traces == 5


def may_refer_to(table, pk):
    """Whether somebody else could commit a row whose foreign key is this one, without a wait."""
    with psycopg.connect(**connection.get_connection_params() | {"cursor_factory": None, "context": None}) as other:
        try:
            other.execute(f"SELECT 1 FROM {table} WHERE id = %s FOR KEY SHARE NOWAIT", [pk])
        except psycopg.errors.LockNotAvailable:
            return False
    return True


DECISIONS = {
    "approve": lambda target, version: services.approve(version, "ann"),
    "reject": lambda target, version: services.reject(version, "ann"),
    "judge again": lambda target, version: services.judge_again(version, "ann"),
    "settings": lambda target, version: registry.change_settings(target, {"min_gain": 0.5}, "ann"),
    "rules for names": lambda target, version: domains.add_rules(target, "exact", ["a"], "b", "ann"),
    "pin": lambda target, version: pins.pin(target, DomainPin("sql", lookahead=1), "ann"),
}


@pytest.mark.parametrize("decide", DECISIONS.values(), ids=DECISIONS)
def test_who_decides_about_a_target_holds_up_no_report_on_it(target, two_wait, decide):
    with transaction.atomic():
        decide(target, two_wait[0])
        assert may_refer_to("registry_target", target.pk)
        assert may_refer_to("registry_speculatorversion", two_wait[0].pk)
