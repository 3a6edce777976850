"""Each rule from what it looks at to its state; thresholds, silences and the console's own disk."""

from collections import namedtuple
from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.accounts.models import AuditEvent
from aurora_web.metrics import services as metrics
from aurora_web.metrics.models import MetricWindow
from aurora_web.rollouts import alerts, board, replicas, rules, watching
from aurora_web.rollouts.models import Alert, Replica, RuleReport
from aurora_web.rollouts.watching import WatchError
from aurora_web.traces.services import ingest_segment
from aurora_web.training.models import SliceState, TrainingSlice
from aurora_web.training.services import active_run
from tests.unit.aurora_web.conftest import count_window, segment_payload

pytestmark = pytest.mark.django_db
Usage = namedtuple("Usage", "total used free")


def state(target, rule):
    return RuleReport.objects.get(target=target).rules[rule]["state"]


def firing(target):
    return {(a.rule, a.replica): a.detail for a in Alert.objects.filter(target=target, state="firing")}


def ask(target, seconds=0):
    """The rules are asked now, and again some seconds later."""
    now = timezone.now()
    alerts.evaluate(target, now)
    if seconds:
        alerts.evaluate(target, now + timedelta(seconds=seconds))


@pytest.fixture
def windows(target):
    """windows(domain, minutes_ago, count, accept_length): ten-second windows of a hundred steps each."""

    def make(domain, minutes_ago, count, accept_length, version=1, seconds=1.0, requests=10):
        start = timezone.now() - timedelta(minutes=minutes_ago)
        for i in range(count):
            tokens = round(100 * accept_length) + (i % 3 - 1) * 5
            MetricWindow.objects.create(
                target=target,
                started_at=start + timedelta(seconds=10 * i),
                domain=domain,
                version=version,
                lookahead=4 if version else 0,
                batch_bucket=1,
                num_requests=requests,
                num_verify_steps=100,
                num_proposed_drafts=400,
                num_correct_drafts=max(tokens - 100, 0),
                num_accept_tokens=tokens,
                decode_seconds=seconds,
                sum_xx=tokens**2 / requests * 1.01,
                sum_yy=seconds**2 / requests * 1.01,
                sum_xy=tokens * seconds / requests,
            )

    return make


def test_accept_length_that_fell_in_one_domain(target, windows):
    windows("sql", 50, 30, 3.0)
    windows("sql", 8, 30, 2.0)
    windows("prose", 50, 30, 2.0)
    windows("prose", 8, 30, 2.0)
    ask(target)
    assert state(target, "accept_length_fell") == "pending"
    ask(target, 61)
    assert state(target, "accept_length_fell") == "firing"
    [detail] = [detail for (rule, _), detail in firing(target).items() if rule == "accept_length_fell"]
    assert detail.startswith("sql: accept length 2.00 over the last 10 minutes, 3.00 in the hour before (−33.")


@pytest.mark.parametrize(("now", "expected"), [(2.7, "normal"), (2.5, "pending"), (3.5, "normal")])
def test_fifteen_percent_is_the_threshold(target, windows, now, expected):
    windows("sql", 50, 30, 3.0)
    windows("sql", 8, 30, now)
    ask(target)
    assert state(target, "accept_length_fell") == expected


def test_too_few_windows_are_no_data(target, windows):
    windows("sql", 8, 30, 2.0)
    ask(target)
    report = RuleReport.objects.get(target=target).rules["accept_length_fell"]
    assert report == {"state": "no_data", "detail": "0 earlier windows, at least 5 are needed"}


@pytest.mark.parametrize(("speculative", "expected"), [(1.0, "pending"), (4.0, "normal")])
def test_slower_than_no_speculation(target, windows, speculative, expected):
    windows("sql", 8, 30, speculative)
    windows("sql", 8, 30, 2.0, version=0)
    ask(target)
    assert state(target, "speedup_below_one") == expected


def test_a_speedup_that_is_not_measured_is_no_data(target):
    ask(target)
    assert state(target, "speedup_below_one") == "no_data"


def test_the_trainer_stalls_only_when_traces_wait(target, make_version):
    make_version()
    run = active_run(target)
    type(run).objects.update(started_at=timezone.now() - timedelta(seconds=300))
    ask(target)
    assert state(target, "trainer_stalled") == "normal"  # nothing to train on
    ingest_segment(segment_payload(40))
    row = TrainingSlice.objects.create(run=run, state=SliceState.FAILED, error="OutOfMemoryError: 2 GiB\ntraceback")
    ask(target)
    [detail] = firing(target).values()
    assert "no slice has worked for 30" in detail
    assert detail.endswith("the last slice failed: OutOfMemoryError: 2 GiB.")
    TrainingSlice.objects.filter(pk=row.pk).update(state=SliceState.RUNNING, heartbeat_at=timezone.now())
    ask(target)
    assert (state(target, "trainer_stalled"), firing(target)) == ("normal", {})


def test_a_target_of_which_nothing_is_heard(target, observed):
    ask(target)
    assert state(target, "target_silent") == "no_data"
    replicas.observe(observed())
    ask(target)
    assert state(target, "target_silent") == "normal"
    Replica.objects.update(is_alive=False)
    ask(target, 61)
    assert firing(target)["target_silent", ""].startswith("None of 1 replicas reports; the last report came ")
    assert state(target, "capture_broken") == "no_data"


def test_a_spool_that_grows(target, observed):
    replicas.observe(observed(spool_bytes=300 * 1024 * 1024))
    ask(target)
    assert "r1: 300 MiB of announcements wait on its disk, more than 256 MiB" in firing(target)["spool_growing", "r1"]


def test_the_disk_is_one_alert_of_the_console(db, monkeypatch, settings, tmp_path):
    settings.STATE_DIR, settings.SEGMENTS_DIR, settings.VERSIONS_DIR = tmp_path, tmp_path, tmp_path / "none"
    monkeypatch.setattr(rules.shutil, "disk_usage", lambda path: Usage(100 * 2**30, 95 * 2**30, 5 * 2**30))
    alerts.evaluate_console(timezone.now())
    assert firing(None) == {
        ("disk_low", str(tmp_path)): f"{tmp_path}: 5.0 GiB of 100.0 GiB are free (5.0%, less than 10%)."
    }
    monkeypatch.setattr(rules.shutil, "disk_usage", lambda path: Usage(100 * 2**30, 50 * 2**30, 50 * 2**30))
    alerts.evaluate_console(timezone.now())
    assert firing(None) == {}


def test_counts_that_nobody_sums_are_an_alert(target):
    """A row that broke every roll-up had stopped the figures of all targets, and nobody was told."""
    metrics.ingest_counts({"counts": [count_window().to_json()]})
    alerts.evaluate_console(timezone.now() + timedelta(seconds=50))
    assert firing(None) == {}
    alerts.evaluate_console(timezone.now() + timedelta(seconds=70))
    [detail] = firing(None).values()
    assert "wait to be summed" in detail
    metrics.roll_up()
    alerts.evaluate_console(timezone.now() + timedelta(seconds=80))
    assert firing(None) == {}


def test_a_rule_that_breaks_is_an_error_and_the_others_go_on(target, observed, monkeypatch):
    monkeypatch.setattr(rules, "accept_levels", lambda target, now: 1 / 0)
    replicas.observe(observed(capture_state="broken"))
    ask(target)
    report = RuleReport.objects.get(target=target).rules
    assert report["accept_length_fell"] == {"state": "error", "detail": "ZeroDivisionError: division by zero"}
    assert report["capture_broken"]["state"] == "firing"


def test_a_threshold_counts_for_its_target_alone_and_is_in_the_audit_log(target, observed):
    watching.set_rule(target, "spool_growing", "ada", threshold=500, is_enabled=True)
    replicas.observe(observed(spool_bytes=300 * 1024 * 1024))
    ask(target)
    assert firing(target) == {}
    event = AuditEvent.objects.get(action="alert.rule")
    assert ("threshold", None, 500) in event.changes
    row = next(row for row in board.ruled(target)[0] if row.spec.rule == "spool_growing")
    assert (row.threshold, row.is_default, row.state) == (500, False, "normal")


def test_a_rule_that_is_switched_off_ends_its_alerts(target, observed):
    replicas.observe(observed(capture_state="broken"))
    watching.set_rule(target, "capture_broken", "ada", threshold=None, is_enabled=False)
    ask(target)
    assert firing(target) == {}


@pytest.mark.parametrize(
    ("rule", "threshold", "named"),
    [
        ("spool_growing", 0.5, "threshold is 0.5, expected 1 to 1e\\+06 MiB"),
        ("capture_broken", 1.0, "capture_broken has no threshold"),
        ("disk_low", 5.0, "'disk_low' is no rule of a target"),
        ("nonsense", None, "'nonsense' is no rule of a target"),
    ],
)
def test_wrong_thresholds_are_named(target, rule, threshold, named):
    with pytest.raises(WatchError, match=named):
        watching.set_rule(target, rule, "ada", threshold=threshold, is_enabled=True)


def test_every_rule_has_a_spec():
    assert {*rules.SPECS, *rules.CONSOLE_SPECS} == set(rules.Rule)


def test_a_look_at_all_rules_of_a_target_asks_few_questions(target, observed, windows, django_assert_max_num_queries):
    for i in range(8):
        replicas.observe(observed(replica=f"r{i}"))
    windows("sql", 60, 300, 2.0)
    alerts.evaluate(target, timezone.now())
    with django_assert_max_num_queries(55):
        alerts.evaluate(target, timezone.now())
