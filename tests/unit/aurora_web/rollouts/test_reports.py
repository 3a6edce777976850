"""Reports beside decisions: a replica is told one version of each generation, and who runs another one is seen."""

import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.rollouts import alerts, canaries, replicas, services
from aurora_web.rollouts.fleet import standings
from aurora_web.rollouts.models import Alert, SwapArrival
from tests.unit.aurora_web.rollouts.beside import Beside

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def reporting(monkeypatch, observed, step):
    """A report of r1 or r2 that has come as far as ``step`` and goes on at the end of the block."""
    reached, go_on = threading.Event(), threading.Event()
    inner = getattr(replicas, step)

    def held(*given):
        found = inner(*given) if step == "_store" else None
        if threading.current_thread() is not threading.main_thread() and not reached.is_set():
            reached.set()
            assert go_on.wait(60)
        return found if step == "_store" else inner(*given)

    monkeypatch.setattr(replicas, step, held)
    report = Beside(lambda: replicas.observe(observed))
    assert reached.wait(60)
    yield report
    go_on.set()


@pytest.mark.parametrize("step", ["_store", "desired_state"])
def test_a_replica_that_reports_while_its_canary_begins_is_told_to_run_the_canary(
    target, two_wait, observed, monkeypatch, step
):
    """Or to do what was wanted before: only never the other version of the new generation, which it would keep."""
    name = canaries.plan(target).replicas[0].name
    with reporting(monkeypatch, observed(replica=name, generation=2, version=2), step) as report:
        services.approve(two_wait[0], "ann")
    answer = report.result()
    assert (answer.generation, answer.version) == (3, 3)


def test_a_replica_that_reports_while_its_canary_ends_is_told_to_run_the_live_version(
    target, canary, observed, monkeypatch
):
    name = target.replicas.get(is_canary=True).name
    with reporting(monkeypatch, observed(replica=name, generation=3, version=3), "_store") as report:
        canaries.abort(canary, "ann")
    answer = report.result()
    assert (answer.generation, answer.version) == (4, 2)
    assert not SwapArrival.objects.filter(swap__generation=4).exists()


def test_a_replica_that_serves_another_version_of_the_newest_generation_is_behind(target, canary, observed):
    replica = target.replicas.get(is_canary=True)
    replicas.observe(observed(replica=replica.name, generation=3, version=2))
    assert {s.replica.name: s.progress for s in standings(target)}[replica.name] == "catching up"
    later = timezone.now() + timedelta(seconds=61)
    alerts.evaluate(target, timezone.now())
    alerts.evaluate(target, later)
    assert {s.replica.name: s.progress for s in standings(target, later)}[replica.name] == "behind"
    alert = Alert.objects.get(rule="replica_behind", replica=replica.name)
    assert (alert.state, alert.detail) == (
        "firing",
        f"{replica.name} runs v2 of generation 3; desired is v3 of generation 3.",
    )
    replicas.observe(observed(replica=replica.name, generation=3, version=3))
    assert not Alert.objects.filter(rule="replica_behind", replica=replica.name, ended_at=None).exists()
