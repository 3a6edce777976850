from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from aurora_web.accounts.models import AuditEvent
from aurora_web.metrics.models import MetricWindow
from aurora_web.registry.models import SpeculatorVersion, Target, Transition
from aurora_web.registry.services import StaleVersion, find_version, register_target
from aurora_web.rollouts import intent, replicas, services
from aurora_web.rollouts.intent import RolloutError
from aurora_web.rollouts.models import Deployment, GateDecision
from speculators.records import RecordError

pytestmark = pytest.mark.django_db


def manual(target):
    target.approval = "manual"
    target.save()


def test_automatic_policy_puts_better_versions_into_service(target, judged, report):
    first = judged()
    assert (first.status, intent.desired_state(target).version) == ("live", 1)
    second = judged(report({"sql": (2.0, 1.0)}))
    assert second.status == "live"
    desired = intent.desired_state(target)
    assert (desired.version, desired.generation, desired.sha256) == (2, 2, second.sha256)
    assert SpeculatorVersion.objects.get(pk=first.pk).status == "retired"
    worse = judged(report({"sql": (1.0, 2.0)}))
    assert (worse.status, intent.desired_state(target).version) == ("rejected", 2)


def test_judging_twice_changes_nothing(judged, report):
    judged()
    version = judged(report({"sql": (2.0, 1.0)}))
    before = Transition.objects.count()
    services.judge(version)
    assert (Transition.objects.count(), GateDecision.objects.count()) == (before, 2)


def test_a_person_approves(target, judged, report):
    manual(target)
    judged()  # day 0 goes live by itself
    version = judged(report({"sql": (2.0, 1.0)}))
    assert (version.status, intent.desired_state(target).version) == ("passed", 1)
    services.approve(version, "ada", "looks good", "passed")
    assert intent.desired_state(target).version == 2
    assert AuditEvent.objects.get(action="version.approve").reason == "looks good"
    with pytest.raises(StaleVersion):
        services.approve(version, "bob", "", "passed")


def test_a_person_rejects(target, judged, report):
    manual(target)
    judged()
    version = judged(report({"sql": (2.0, 1.0)}))
    services.reject(version, "ada", "not now")
    assert SpeculatorVersion.objects.get(pk=version.pk).status == "rejected"
    with pytest.raises(RolloutError, match="is rejected"):
        services.approve(version, "ada")
    assert intent.desired_state(target).version == 1


@pytest.mark.parametrize(("lookahead", "status"), [(4, "live"), (2, "rejected")])
def test_replays_of_two_lookaheads_are_not_compared(target, judged, report, lookahead, status):
    """v2's own replay went at lookahead 4; v3 was replayed beside v1, which is not live any more."""
    judged()
    judged(report({"sql": (2.0, 1.0)}))
    third = judged(replace(report({"sql": (3.0, 1.0)}), live_uri="/versions/1", lookahead=lookahead))
    assert third.status == status
    decision = GateDecision.objects.get(version=third)
    if status == "rejected":
        assert decision.reasons == [
            "The gain cannot be known: the two replays have no verify steps of one largest lookahead."
        ]
        assert decision.domains[0]["live_accept_length"] is None and decision.gain is None


def test_rollback_holds_until_somebody_says_so(target, judged, report):
    first = judged()
    second = judged(report({"sql": (2.0, 1.0)}))
    services.rollback(target, "ada", "looks odd")
    assert find_version(target, "@live") == first
    assert SpeculatorVersion.objects.get(pk=second.pk).status == "rolled_back"
    assert intent.desired_state(target).generation == 3
    third = judged(report({"sql": (3.0, 1.0)}))
    assert (third.status, find_version(target, "@live")) == ("passed", first)
    services.resume(target, "ada")
    fourth = judged(report({"sql": (3.0, 1.0)}))
    assert fourth.status == "live"


def test_nothing_to_roll_back_to(target, judged):
    with pytest.raises(RolloutError, match="no live version"):
        services.rollback(target, "ada")
    judged()
    with pytest.raises(RolloutError, match="no version @previous"):
        services.rollback(target, "ada")


def test_a_collapse_on_a_replica_reverts_once(target, judged, report, observed):
    judged()
    second = judged(report({"sql": (3.0, 1.0)}))
    desired = intent.desired_state(target)
    assert 1.3 < desired.min_accept_length < 1.5  # a fifth of the replayed gain
    replicas.observe(observed(generation=2, version=1, state="reverted", detail="accept length 1.02"))
    assert SpeculatorVersion.objects.get(pk=second.pk).status == "rolled_back"
    answer = replicas.observe(observed(generation=2, version=1, state="reverted", detail="accept length 1.02"))
    assert (answer.version, answer.generation) == (1, 3)
    assert Transition.objects.filter(version=second, new="rolled_back").count() == 1
    assert not Deployment.objects.get(target=target).is_held  # learning goes on


def served(target, number, domain, accept_length, seconds_ago):
    """A window with 400 verify steps of a version."""
    tokens = round(400 * accept_length)
    MetricWindow.objects.create(
        target=target, started_at=timezone.now() - timedelta(seconds=seconds_ago), domain=domain, version=number,
        lookahead=4, batch_bucket=1, num_requests=20, num_verify_steps=400, num_proposed_drafts=1600,
        num_correct_drafts=tokens - 400, num_accept_tokens=tokens, decode_seconds=1, sum_xx=1, sum_yy=1, sum_xy=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        ({"sql": 2.6}, {"sql": 1.1}, "rolled_back"),
        ({"sql": 2.6}, {"sql": 1.1, "prose": 2.4}, "rolled_back"),  # nobody knows what prose was before
        ({"sql": 2.6}, {"sql": 2.5}, "live"),
        ({"sql": 2.6}, {"prose": 1.05}, "live"),  # other traffic: going back would help nobody
        ({"sql": 1.1}, {"sql": 1.1}, "live"),  # it had changed before the swap
        ({"sql": 1.1}, {"sql": 1.0}, "live"),  # the difference is noise
    ],
)
def test_a_swap_is_undone_where_the_versions_before_it_did_better(target, judged, report, before, after, status):
    judged()
    second = judged(report({"sql": (3.0, 1.0)}))
    Deployment.objects.update(changed_at=timezone.now() - timedelta(seconds=60))
    for domain, accept_length in before.items():
        served(target, 1, domain, accept_length, 90)
    for domain, accept_length in after.items():
        served(target, 2, domain, accept_length, 30)
    replicas.reconcile(timezone.now())
    second.refresh_from_db()
    assert second.status == status
    if status == "rolled_back":
        assert "2.60 in the same domains before it" in Transition.objects.get(version=second, new=status).reason
        assert intent.desired_state(target).min_accept_length == 0.0  # what has served is not on trial again


@pytest.mark.parametrize("broken", ["judge", "canary", "alerts", "prune"])
def test_what_raises_at_one_target_keeps_no_other_from_its_turn(
    target, make_version, checkpoint_dir, monkeypatch, caplog, broken
):
    register_target(path=str(checkpoint_dir), actor="ada", slug="other")
    make_version()
    done = set()

    def duty(name):
        def do(what, now=None):
            slug = getattr(what, "slug", "demo")
            if (name, slug) == (broken, "demo"):
                raise KeyError("odd")
            done.add((name, slug))

        return do

    monkeypatch.setattr(replicas, "judge", duty("judge"))
    monkeypatch.setattr(replicas, "prune", duty("prune"))
    monkeypatch.setattr(replicas.canaries, "watch", duty("canary"))
    monkeypatch.setattr(replicas.alerts, "evaluate", duty("alerts"))
    monkeypatch.setattr(replicas.alerts, "evaluate_console", lambda now: done.add("console"))
    monkeypatch.setattr(replicas.notifications, "resend", lambda now: done.add("resend"))
    replicas.reconcile(timezone.now())
    of_targets = {(name, slug) for name in ("canary", "alerts", "prune") for slug in ("demo", "other")}
    assert done == (of_targets | {("judge", "demo"), "console", "resend"}) - {(broken, "demo")}
    assert "KeyError: 'odd'" in caplog.text


def test_few_replayed_traces_give_no_collapse_threshold(target, judged, report):
    judged()
    judged(report({"sql": (3.0, 1.0)}, n=4))
    assert intent.desired_state(target).min_accept_length == 0.0


def test_at_most_five_versions_wait(target, judged, report):
    manual(target)
    judged()
    for _ in range(7):
        judged(report({"sql": (2.0, 1.0)}))
    assert target.versions.filter(status="passed").count() == services.MAX_PENDING


def test_old_files_are_deleted_but_not_what_may_come_back(target, judged, report, settings, tmp_path):
    settings.VERSIONS_DIR = tmp_path
    judged()
    for i in range(settings.KEEP_VERSIONS + 4):
        judged(report({"sql": (2.0, 1.0 if i % 2 else 2.5)}))
    for version in target.versions.all():
        Path(version.uri).mkdir(exist_ok=True)
    assert replicas.prune(target, timezone.now()) > 0
    deployment = Deployment.objects.get(target=target)
    for kept in (deployment.desired, deployment.previous):
        assert Path(kept.uri).is_dir()
    pruned = target.versions.exclude(pruned_at=None)
    assert pruned.exists()
    assert not any(Path(v.uri).exists() for v in pruned)


def test_what_a_new_target_copies_is_not_deleted_before_it_has_its_version(target, judged, report, settings, tmp_path):
    settings.VERSIONS_DIR = tmp_path
    judged()
    for i in range(settings.KEEP_VERSIONS + 4):
        judged(report({"sql": (2.0, 1.0 if i % 2 else 2.5)}))
    replicas.prune(target, timezone.now())
    oldest = target.versions.filter(pruned_at=None, status="rejected").order_by("number").first()
    Target.objects.create(
        slug="copy", name="copy", architecture="x", num_layers=8, hidden_size=32, vocab_size=61, draft_version=oldest
    )
    for i in range(4):
        judged(report({"sql": (2.0, 1.0 if i % 2 else 2.5)}))
    replicas.prune(target, timezone.now())
    oldest.refresh_from_db()
    assert oldest.pruned_at is None
    Target.objects.filter(slug="copy").delete()
    replicas.prune(target, timezone.now())
    oldest.refresh_from_db()
    assert oldest.pruned_at is not None


def test_a_name_belongs_to_the_server_that_reports_under_it(target, observed, settings):
    """A second one is refused until the first is silent, so that one that was started again elsewhere is heard."""
    one, other = observed(), observed(url="http://127.0.0.1:8200", version=7)
    replicas.observe(one)
    refusal = r"r1 is the server at http://127\.0\.0\.1:8100, .* at http://127\.0\.0\.1:8200 with an AURORA_REPLICA"
    with pytest.raises(RolloutError, match=refusal):
        replicas.observe(other)
    kept = target.replicas.get()
    assert (kept.url, kept.version) == (one.url, 0)
    replicas.observe(one)
    replicas.observe(observed(replica="r2", url=other.url))  # another name
    silent = timezone.now() - timedelta(seconds=settings.REPLICA_TIMEOUT_SECONDS + 1)
    target.replicas.filter(name="r1").update(seen_at=silent)
    replicas.observe(other)
    assert target.replicas.get(name="r1").url == other.url


def test_one_launch_command_on_two_machines_is_two_servers(target, observed):
    """The console's command says loopback, so the address does not tell them apart."""
    replicas.observe(observed(host="gpu-1", version=0))
    with pytest.raises(RolloutError, match=r"8100 on gpu-1, .* at http://127\.0\.0\.1:8100 on gpu-2 with an AURORA"):
        replicas.observe(observed(host="gpu-2", version=7))
    replicas.observe(observed(host="gpu-1", state="starting"))  # started again, on the machine that it was on
    replicas.observe(observed())  # an older one, which names no machine
    assert target.replicas.get().version == 0


def test_what_was_deleted_is_no_previous_version(target, judged, report):
    """Else a rollback is offered that cannot be done."""
    for i in range(4):
        judged(report({"sql": (2.0 + i, 1.0)}) if i else None)
    SpeculatorVersion.objects.filter(number=3).update(pruned_at=timezone.now())
    assert find_version(target, "@previous").number == 2
    services.rollback(target, "olga")
    assert intent.desired_state(target).version == 2


def test_versions_that_served_outlive_many_that_were_rejected(target, judged, report, settings, tmp_path):
    settings.VERSIONS_DIR = tmp_path
    for i in range(3):
        judged(report({"sql": (2.0 + i, 1.0)}) if i else None)
    for _ in range(settings.KEEP_VERSIONS + 4):
        judged(report({"sql": (1.0, 2.5)}))
    assert replicas.prune(target, timezone.now()) > 0
    services.rollback(target, "olga")
    assert (intent.desired_state(target).version, find_version(target, "@previous").number) == (2, 1)


def test_a_failed_swap_is_heard_whatever_its_texts(target, observed):
    """A replica cuts what this console would refuse, and has a report of the core for what it has not thought of."""
    proof = "no proof: RuntimeError: " + "CUDA error " * 20
    failed = observed(
        state="swap_failed", detail="\0" + proof * 100, sha256=proof, ranks=(proof, ""), policy_detail="p"
    )
    with pytest.raises(RecordError):
        replicas.observe(failed)
    replicas.observe(failed.fitting())
    kept = target.replicas.get()
    assert (kept.state, kept.detail[:8], kept.ranks[0]) == ("swap_failed", "no proof", proof[:64])
    replicas.observe(failed.core("refused"))
    kept.refresh_from_db()
    assert (kept.state, kept.ranks, kept.capture_detail) == ("swap_failed", [], "refused")
