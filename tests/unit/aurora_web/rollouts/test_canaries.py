"""A canary from its start to every end that it may have, with real counts in Postgres."""

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.accounts.models import AuditEvent
from aurora_web.metrics import services as metrics
from aurora_web.metrics.models import CountRow
from aurora_web.registry.models import SpeculatorVersion, Target, Transition
from aurora_web.registry.services import StaleVersion, find_version
from aurora_web.rollouts import canaries, intent, replicas, services
from aurora_web.rollouts.canary_verdict import Action
from aurora_web.rollouts.intent import RolloutError
from aurora_web.rollouts.models import Deployment, GateDecision

pytestmark = pytest.mark.django_db


def status(number):
    return SpeculatorVersion.objects.get(number=number).status


def desired(target):
    """{replica: version that it should run}, and None: what one that nobody knows should run."""
    found = {r.name: intent.desired_state(target, r).version for r in target.replicas.all()}
    return found | {None: intent.desired_state(target).version}


def last_reason(version):
    return Transition.objects.filter(version=version).first().reason


def long_ago(minutes):
    """The newest verdict, and the last change of what is wanted, are so old."""
    at = timezone.now() - timedelta(minutes=minutes)
    Deployment.objects.update(changed_at=at)
    GateDecision.objects.update(at=at)


def after(minutes):
    """A look at the canary ``minutes`` after it began."""
    return Deployment.objects.get().canary_started_at + timedelta(minutes=minutes)


def test_one_of_two_replicas_runs_it_first(target, canary):
    assert (canary.status, status(2)) == ("canary", "live")
    runs = desired(target)
    assert sorted([runs["r1"], runs["r2"]]) == [2, 3]
    assert runs[None] == 2
    assert intent.desired_state(target).generation == 3  # one generation for all of them
    assert "Canary on 1 of 2 replicas" in last_reason(canary)
    assert AuditEvent.objects.filter(action="canary.start", subject="demo v3").exists()


@pytest.mark.parametrize(("share", "num_alive", "expected"), [(0.01, 5, 1), (0.5, 5, 2), (1.0, 3, 2), (0.3, 10, 3)])
def test_at_least_one_and_never_all(target, judged, report_in, share, num_alive, expected):
    judged()
    report_in(*(f"r{i}" for i in range(num_alive)))
    target.canary_share = share
    planned = canaries.plan(target)
    assert len(planned.replicas) == expected
    assert [r.pk for r in canaries.plan(target).replicas] == [r.pk for r in planned.replicas]  # the same ones again


def test_one_replica_is_not_enough_and_it_says_so(target, judged, report, report_in):
    judged()
    report_in("r1")
    target.canary_share = 0.5
    target.save()
    version = judged(report({"sql": (2.0, 1.0)}))
    assert version.status == "live"
    assert "No canary: 1 replica is alive, at least 2 are needed." in last_reason(version)


def test_a_replica_that_comes_later_is_no_canary(target, canary, report_in):
    report_in("r9")
    assert desired(target)["r9"] == 2


def test_as_fast_for_long_enough_is_promoted(target, canary, measured):
    measured(0.5, 0.6)
    assert canaries.watch(target, after(1)) == Action.WAIT
    assert canaries.watch(target, after(6)) == Action.PROMOTE
    assert (status(3), status(2)) == ("live", "retired")
    assert set(desired(target).values()) == {3}
    assert intent.desired_state(target).generation == 4
    assert "Tokens/s 198 on the canary, 165 on the others (+20.0\u00a0%" in last_reason(canary)
    assert not target.replicas.filter(is_canary=True).exists()


def test_slower_is_rolled_back(target, canary, report_in, measured):
    report_in("r1", "r2")
    measured(0.65, 0.6, domain="sql")
    assert canaries.watch(target, after(6)) == Action.WAIT  # it seems so; certain it is not
    assert canaries.watch(target, after(15)) == Action.ROLL_BACK
    assert (status(3), status(2)) == ("rolled_back", "live")
    assert set(desired(target).values()) == {2}
    assert "It is slower." in last_reason(canary)
    assert not Deployment.objects.get().is_held  # learning goes on


def test_much_worse_in_one_domain_does_not_wait_for_the_minutes(target, canary, measured):
    measured(0.5, 0.6)
    measured(1.5, 0.6, domain="prose")
    assert canaries.watch(target, after(0.1)) == Action.ROLL_BACK
    assert "prose is worse than the tolerance of 10\u00a0%" in last_reason(canary)


def test_what_only_seems_worse_is_waited_for_and_the_page_says_why(target, canary, measured, clients):
    measured(0.52, 0.4)
    measured(1.04, 0.8)
    assert canaries.watch(target, after(4)) == Action.WAIT
    page = clients["viewer"].get(f"/approvals/{canary.pk}/").content.decode()
    assert "sql seems worse than the tolerance of 10\u00a0%" in page
    assert '<span class="badge">seems worse</span>' in page
    assert '<span class="badge bad">worse</span>' not in page
    assert "in fewer than 1 of 4,800 comparisons" in page


def test_a_collapse_does_not_wait_at_all(target, canary, measured):
    threshold = intent.collapse_threshold(canary)
    assert threshold == pytest.approx(1.4)
    measured(0.5, 0.6, n=6, num_accept_tokens=110, num_verify_steps=100)
    assert canaries.watch(target, after(0.1)) == Action.ROLL_BACK
    assert "It has collapsed: accept length 1.10 over 600 steps, below 1.40." in last_reason(canary)


def test_traffic_on_which_the_others_are_as_bad_is_no_collapse(target, canary, measured):
    measured(0.5, 0.6, n=6, both=True, num_accept_tokens=110, num_verify_steps=100)
    assert canaries.watch(target, after(0.1)) == Action.WAIT
    assert status(3) == "canary"


def test_without_requests_it_waits_and_says_for_what(target, canary, measured):
    measured(0.5, 0.6, n=12)
    found = canaries.verdict(intent.lock_deployment(target), after(100))
    assert found.action == Action.WAIT
    assert found.reasons == ("12 requests on the canary and 12 on the others; the policy asks for 40 on either side.",)


def test_counts_of_before_and_of_other_versions_do_not_matter(target, canary, measured):
    measured(0.5, 0.6)
    Deployment.objects.update(canary_started_at=timezone.now() + timedelta(seconds=1))
    found = canaries.verdict(intent.lock_deployment(target), after(6))
    assert (found.total.canary_requests, found.total.other_requests) == (0, 0)


def test_a_person_promotes_or_aborts(target, canary, judged, report):
    with pytest.raises(StaleVersion, match="is canary, not passed"):
        canaries.abort(canary, "ada", expected_status="passed")
    canaries.abort(canary, "ada", "looks odd", "canary")
    assert (status(3), set(desired(target).values())) == ("rolled_back", {2})
    assert AuditEvent.objects.get(action="canary.abort").reason == "looks odd"
    with pytest.raises(RolloutError, match="is rolled_back: only a canary"):
        canaries.promote(canary, "ada")
    again = judged(report({"sql": (3.0, 2.0)}))
    canaries.promote(again, "ada", "good enough", "canary")
    assert (status(4), set(desired(target).values())) == ("live", {4})
    assert [a.actor for a in again.approvals.all()] == ["ada", "policy"]


def test_a_failed_swap_on_the_canary_ends_it(target, canary, observed):
    name = target.replicas.get(is_canary=True).name
    failed = observed(replica=name, generation=3, version=2, state="swap_failed", detail="sha256 differs")
    answer = replicas.observe(failed)
    assert (answer.version, answer.generation) == (2, 4)
    assert status(3) == "rolled_back"
    assert "sha256 differs" in last_reason(canary)
    replicas.observe(failed)  # said again, by an older generation
    assert Deployment.objects.get().generation == 4


def test_a_failure_elsewhere_leaves_the_canary_alone(target, canary, observed):
    name = target.replicas.get(is_canary=False).name
    replicas.observe(observed(replica=name, generation=3, version=2, state="swap_failed", detail="disk"))
    assert (status(3), status(2)) == ("canary", "live")


def test_rolling_the_live_version_back_ends_the_canary_too(target, canary):
    services.rollback(target, "ada", "3 a.m.")
    assert (status(3), status(2), status(1)) == ("rolled_back", "rolled_back", "live")
    assert set(desired(target).values()) == {1}


def test_a_rollback_by_who_saw_no_canary_ends_none(target, canary):
    for seen in (0, 2):
        with pytest.raises(StaleVersion, match="demo v3 is in canary now"):
            services.rollback(target, "ada", expected_live=2, expected_canary=seen)
    assert (status(3), status(2)) == ("canary", "live")
    services.rollback(target, "ada", expected_live=2, expected_canary=3)
    assert (status(3), status(1)) == ("rolled_back", "live")


def test_versions_that_pass_meanwhile_wait_for_their_turn(target, canary, judged, report, measured):
    waiting = judged(report({"sql": (4.0, 2.0)}))
    assert (waiting.status, GateDecision.objects.get(version=waiting).live_number) == ("passed", 2)
    with pytest.raises(RolloutError, match="demo v3 is in canary"):
        services.approve(waiting, "ada")
    measured(0.5, 0.6)
    Target.objects.update(canary_minutes=1.0)  # the canary began 100 s ago
    replicas.reconcile(timezone.now())
    assert (status(3), status(4)) == ("live", "passed")
    replicas.reconcile(timezone.now())
    assert (status(4), find_version(target, "@live").number) == ("canary", 3)
    assert GateDecision.objects.get(version=waiting).live_number == 3  # judged again, against what the canary became


def test_a_waiting_version_is_not_let_in_on_a_verdict_against_what_was_live_before(
    target, canary, judged, report, measured
):
    """v4 beats v2, which it was judged against, and not v3, which is live when its turn comes."""
    waiting = judged(report({"sql": (2.5, 2.0)}))
    canaries.promote(canary, "ada")
    SpeculatorVersion.objects.filter(pk=waiting.pk).update(status="passed")  # a promotion sets older ones aside
    assert canaries.take_next(target) is False
    assert services.take_next(target) is False
    assert (status(4), status(3)) == ("rejected", "live")
    event = AuditEvent.objects.get(action="version.judge", subject="demo v4")
    assert (event.actor, event.reason) == ("policy", "judged against v2, but v3 is live now")
    assert desired(target)[None] == 3


def test_a_replica_that_was_down_catches_up_when_it_reports(target, canary, observed, measured):
    name = target.replicas.get(is_canary=True).name
    target.replicas.filter(name=name).update(is_alive=False)
    answer = replicas.observe(observed(replica=name, generation=1, version=1))
    assert (answer.version, answer.generation) == (3, 3)  # it keeps its group


@pytest.mark.parametrize(("gone", "said"), [(True, "No replica of the canary reports"), (False, "Only replicas of")])
def test_a_side_that_is_gone_ends_it_after_its_minutes(target, canary, report_in, gone, said):
    report_in("r1", "r2")
    target.replicas.filter(is_canary=gone).update(is_alive=False)
    for minute in (2, 4, 6.5):
        assert canaries.watch(target, after(minute)) == Action.WAIT
    assert canaries.watch(target, after(7)) == Action.ROLL_BACK
    assert said in last_reason(canary)
    assert set(desired(target).values()) == {2}


@pytest.mark.parametrize(
    ("is_canary", "said"), [(False, "No other replica serves demo v2"), (True, "canary serves it")]
)
def test_a_side_that_cannot_swap_ends_it_after_its_minutes(target, canary, report_in, measured, is_canary, said):
    """It reports, and nothing of it is ever compared: the canary had held up every version after it."""
    report_in("r1", "r2")
    measured(0.5, 0.6, n=12)
    stuck = target.replicas.get(is_canary=is_canary)
    report_in(stuck.name, generation=1, version=1)  # for longer than a minute
    assert canaries.watch(target, after(4)) == Action.WAIT
    assert canaries.watch(target, after(9)) == Action.ROLL_BACK
    assert f"{said}, so nothing can be compared." in last_reason(canary)


@pytest.mark.parametrize("is_canary", [True, False])
def test_a_server_that_is_started_again_ends_no_canary(target, canary, report_in, is_canary):
    """Nor one after another: each time its side is back before it has been missing for long."""
    report_in("r1", "r2")
    name = target.replicas.get(is_canary=is_canary).name
    for minute in (6, 11, 16):
        report_in(name, state="starting", generation=0, version=0)
        assert canaries.watch(target, after(minute)) == Action.WAIT
        assert canaries.watch(target, after(minute + 4)) == Action.WAIT
        report_in(name)
        assert canaries.watch(target, after(minute + 4.5)) == Action.WAIT
    assert status(3) == "canary"


def test_a_side_that_serves_is_waited_for(target, canary, report_in):
    report_in("r1", "r2")
    assert canaries.watch(target, after(100)) == Action.WAIT


def test_beside_a_replica_that_cannot_swap_there_is_no_canary(target, judged, report, report_in, observed):
    """As with one replica: the version goes straight, once it is clear that the other one stays as it is."""
    judged()
    report_in("r1")
    failed = {"replica": "r2", "version": 0, "state": "swap_failed", "detail": "no room"}
    replicas.observe(observed(**failed, generation=1))
    target.canary_share = 0.5
    target.save()
    version = judged(report({"sql": (2.0, 1.0)}))
    assert (version.status, services.take_next(target)) == ("passed", False)  # it may be well in a moment
    long_ago(minutes=11)
    assert services.take_next(target)
    assert status(version.number) == "live"
    said = "No canary: 1 of 2 replicas serves the live version, at least 2 are needed."
    assert said in last_reason(version)
    report_in("r1", "r3")
    replicas.observe(observed(**failed, generation=2))
    [planned] = canaries.plan(target).replicas
    assert planned.name in {"r1", "r3"}


def test_while_speculation_is_off_a_version_goes_straight(target, judged, report, report_in):
    """On neither side would anything be drafted: the canary would wait for its counts for weeks."""
    judged()
    report_in("r1", "r2")
    target.canary_share, target.max_lookahead = 0.5, 0
    target.save()
    version = judged(report({"sql": (2.0, 1.0)}))
    assert version.status == "live"
    assert "No canary: speculation is off" in last_reason(version)


@pytest.mark.parametrize("is_alive", [True, False])
def test_while_servers_start_again_the_policy_waits_with_a_version(target, judged, report, report_in, is_alive):
    """As after a deploy, or while the console was away: it had gone to all of them, without a canary."""
    judged()
    report_in("r1", "r2", "r3")
    target.canary_share = 0.5
    target.save()
    report_in("r2", "r3", state="starting", generation=0, version=0)
    target.replicas.exclude(name="r1").update(is_alive=is_alive)
    version = judged(report({"sql": (2.0, 1.0)}))
    assert (version.status, services.take_next(target)) == ("passed", False)
    report_in("r2")
    assert services.take_next(target)
    assert status(version.number) == "canary"


def test_a_person_waits_for_no_replica(target, two_wait, report_in, clients):
    report_in("r2", state="starting", generation=0, version=0)
    page = clients["operator"].get(f"/approvals/{two_wait[1].pk}/").content.decode()
    assert "1 replica is alive, at least 2 are needed. Others may be back in a moment" in page
    services.approve(two_wait[1], "ada")
    assert status(4) == "live"


def test_on_little_traffic_a_canary_is_judged_by_more_than_a_day(target, canary, report_in, measured):
    report_in("r1", "r2")
    began = timezone.now() - timedelta(days=3)
    measured(0.5, 0.6)
    measured(0.5, 0.6, domain="prose", both=True)
    Deployment.objects.update(canary_started_at=began)
    CountRow.objects.filter(domain="prose").update(started_at=began - timedelta(hours=1))
    CountRow.objects.update(rolled_up_at=began)
    metrics.forget(timezone.now())
    assert set(CountRow.objects.values_list("domain", flat=True)) == {"sql"}
    Deployment.objects.update(canary_started_at=None)
    metrics.forget(timezone.now())
    assert not CountRow.objects.exists()


def test_a_replica_that_is_on_its_way_counts(target, judged, report, report_in):
    """Versions follow one another within seconds."""
    judged()
    report_in("r1", "r2")
    report_in("r2", generation=0, version=0, state="swapping")
    target.canary_share = 0.5
    assert len(canaries.plan(target).replicas) == 1


def test_by_the_api_with_the_status_that_the_caller_saw(client, bearer, canary):
    def post(what, **body):
        address = f"/api/v1/versions/{canary.pk}/canary/{what}"
        return client.post(address, json.dumps(body), content_type="application/json", **bearer("operator"))

    assert post("promote", expected_status="passed").status_code == 409
    answer = post("promote", expected_status="canary", reason="fine")
    assert (answer.json()["version"], answer.json()["canary"]) == (3, None)
    assert post("abort").status_code == 409


def test_each_replica_is_told_its_own(client, bearer, target, canary):
    name = target.replicas.get(is_canary=True).name
    headers = bearer("replica")
    assert client.get(f"/api/v1/targets/demo/desired?replica={name}", **headers).json()["version"] == 3
    assert client.get("/api/v1/targets/demo/desired", **headers).json()["version"] == 2
