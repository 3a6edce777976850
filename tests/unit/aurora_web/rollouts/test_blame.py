"""A swap that fails on one replica of several: the version's fault, or the replica's?"""

from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.registry.models import SpeculatorVersion
from aurora_web.registry.services import find_version
from aurora_web.rollouts import canaries, intent, replicas, services
from aurora_web.rollouts.fleet import CATCH_UP, PROBED_STEPS, standings
from aurora_web.rollouts.models import Alert, Deployment, Replica, Rule

pytestmark = pytest.mark.django_db


@pytest.fixture
def live(target, judged, report, report_in):
    """v1, then v2, on three replicas that had v1; what each says of v2 is still to come."""
    judged()
    report_in("r1", "r2", "r3")
    return judged(report({"sql": (2.0, 1.0)}))


@pytest.fixture
def failed(target, observed):
    """failed("r2"): it could not swap, and serves v1; any other state may be given."""

    def make(name, state="swap_failed"):
        generation = Deployment.objects.get(target=target).generation
        return replicas.observe(observed(replica=name, generation=generation, version=1, state=state, detail="no room"))

    return make


def status(version):
    return SpeculatorVersion.objects.get(pk=version.pk).status


def test_one_that_cannot_load_what_others_serve_rolls_back_nothing(target, live, report_in, failed):
    report_in("r1", "r2")
    for _ in range(3):
        assert failed("r3").version == 2
    assert (status(live), Deployment.objects.get().generation) == ("live", 2)
    assert {s.replica.name: s.progress for s in standings(target)} == {
        "r1": "up to date", "r2": "up to date", "r3": "behind",
    }  # fmt: skip
    assert [a.replica for a in Alert.objects.filter(rule=Rule.SWAP_FAILED)] == ["r3"]


def test_the_first_to_fail_waits_for_what_the_others_say(live, report_in, failed):
    failed("r3")
    report_in("r1")
    failed("r3")
    assert status(live) == "live"


def test_what_nobody_can_load_is_rolled_back(target, live, failed):
    failed("r1")
    failed("r2")
    assert status(live) == "live"
    answer = failed("r3")
    assert (status(live), answer.version) == ("rolled_back", 1)


def test_those_that_say_nothing_are_waited_for_a_minute(live, failed):
    failed("r1")
    Deployment.objects.update(changed_at=timezone.now() - CATCH_UP - timedelta(seconds=1))
    failed("r1")
    assert status(live) == "rolled_back"


@pytest.mark.parametrize("gone", [{"is_alive": False}, {"state": "starting"}])
def test_those_that_serve_nothing_say_nothing(live, failed, gone):
    Replica.objects.exclude(name="r1").update(**gone)
    failed("r1")
    assert status(live) == "rolled_back"


@pytest.mark.parametrize(("num_steps", "after"), [(PROBED_STEPS, "live"), (PROBED_STEPS - 1, "rolled_back")])
def test_a_collapse_is_the_versions_unless_it_has_served_elsewhere(live, report_in, failed, num_steps, after):
    """Who has drafted too little to know is waited for."""
    report_in("r1", "r2", probe_num_steps=num_steps)
    failed("r3", "reverted")
    assert status(live) == "live"
    Deployment.objects.update(changed_at=timezone.now() - CATCH_UP - timedelta(seconds=1))
    failed("r3", "reverted")
    assert status(live) == after


def test_a_canary_of_several_ends_when_all_have_failed(target, live, judged, report, report_in, failed):
    report_in("r1", "r2", "r3", "r4")
    target.canary_share, target.canary_minutes = 0.5, 5.0
    target.save()
    canary = judged(report({"sql": (3.0, 2.0)}))
    assert canary.status == "canary"
    first, second = Replica.objects.filter(is_canary=True).values_list("name", flat=True)
    failed(first)
    assert status(canary) == "canary"
    failed(second)
    assert (status(canary), find_version(target, "@live")) == ("rolled_back", live)


def test_the_next_canary_begins_on_replicas_that_can_swap(target, live, report_in, failed):
    report_in("r1", "r2")
    target.canary_share = 0.3
    [usual] = canaries.plan(target).replicas
    report_in("r3")
    failed(usual.name)
    [other] = canaries.plan(target).replicas
    assert other.name != usual.name
    assert intent.desired_state(target).version == 2
    services.rollback(target, "ada", "a person decides for all of them")
    assert intent.desired_state(target).version == 1
