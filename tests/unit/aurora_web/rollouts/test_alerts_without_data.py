"""An alert of whose replica, domain or target nothing is heard stays open and says so; nobody is told "Ended"."""

from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.console.timeline import timeline
from aurora_web.metrics.models import MetricWindow
from aurora_web.rollouts import alerts, notifications, replicas, watching
from aurora_web.rollouts.models import Alert, Delivery, Replica, RuleReport
from aurora_web.rollouts.tasks import deliver
from tests.unit.aurora_web.rollouts.test_rules import windows  # noqa: F401

pytestmark = pytest.mark.django_db
CHANGED = {"target_sha256": "b" * 64, "num_traces": 11}


@pytest.fixture
def told(monkeypatch):
    """The texts that a webhook was sent, in order."""
    watching.add_channel("on call", "webhook", "https://hooks.example.org/x", "ada")
    monkeypatch.setattr(notifications, "_enqueue", lambda delivery, seconds: None)
    return lambda: [each.payload["text"] for each in Delivery.objects.order_by("id")]


@pytest.fixture
def changed(observed, told):
    """r1 holds other target weights than at first; that has been told."""
    replicas.observe(observed(target_sha256="a" * 64, num_traces=10))
    replicas.observe(observed(**CHANGED))
    [text] = told()
    assert text.startswith("Target weights changed: r1")


def down(target, name="r1", seconds=0):
    Replica.objects.filter(name=name).update(is_alive=False)
    alerts.evaluate(target, timezone.now() + timedelta(seconds=seconds))


def alert():
    return Alert.objects.get(rule="target_changed")


def text(answer):
    return " ".join(answer.content.decode().split())


def test_an_alert_of_a_replica_that_goes_down_stays_open(target, changed, told, clients, client, bearer):
    down(target)
    found = alert()
    assert (found.state, found.ended_at, found.unknown_why) == ("firing", None, "no replica reports")
    assert len(told()) == 1
    assert RuleReport.objects.get(target=target).rules["target_changed"]["state"] == "no_data"
    for page in ("/alerts/", "/targets/demo/"):
        shown = text(clients["viewer"].get(page))
        assert '<span class="badge warn">No data</span>' in shown
        assert "no replica reports" in shown
    assert "Firing, no data" in text(clients["viewer"].get("/alerts/"))
    [payload] = [
        each for each in client.get("/api/v1/targets/demo/alerts", **bearer("viewer")).json()
        if each["rule"] == "target_changed"
    ]  # fmt: skip
    assert (payload["no_data_since"], payload["no_data_why"]) == (found.unknown_since.timestamp(), "no replica reports")


def test_beside_replicas_that_report_it_stays_open_too(target, observed, changed, told):
    replicas.observe(observed(replica="r2", url="http://127.0.0.1:8200", target_sha256="a" * 64))
    down(target)
    assert (alert().state, alert().unknown_why) == ("firing", "r1 does not report")
    assert len(told()) == 1


def test_data_ends_it(target, observed, changed, told):
    down(target)
    replicas.observe(observed(**CHANGED))  # it is back, and so is what was wrong
    assert (alert().state, alert().unknown_since) == ("firing", None)
    assert len(told()) == 1
    down(target)
    replicas.observe(observed(target_sha256="b" * 64, state="starting"))
    replicas.observe(observed(target_sha256="b" * 64))
    assert (alert().state, alert().unknown_since) == ("resolved", None)
    assert told()[-1].startswith("Ended: Target weights changed. It was: r1")


def test_a_day_without_data_closes_it_in_other_words(target, changed, told, clients):
    down(target)
    down(target, seconds=86_000)
    assert alert().state == "firing"
    down(target, seconds=86_500)
    assert (alert().state, alert().state_words) == ("resolved", "Closed, not known")
    closed = "Closed, not known to be over: Target weights changed; for a day there was no data: no replica reports."
    assert [each for each in told() if each.startswith(("Closed", "Ended"))] == [f"{closed} It was: {alert().detail}"]
    [sent] = Delivery.objects.filter(event="alert.resolved")
    assert sent.payload["is_known_to_be_over"] is False
    assert "Closed, not known" in text(clients["viewer"].get("/alerts/"))
    now = timezone.now().timestamp()
    [event] = [each for each in timeline(target, now - 60, now + 90_000) if "was closed" in each["text"]]
    assert "not known to be over: for a day there was no data" in event["text"]
    assert event["kind"] == "closed"


def test_another_replica_at_its_address_closes_it(target, observed, changed, told):
    down(target)
    replicas.observe(observed(replica="r2", target_sha256="a" * 64))
    assert alert().state == "resolved"
    assert "r2 serves at the address of r1 now" in told()[-1]


def test_one_that_shares_its_address_all_along_does_not(target, observed, changed):
    replicas.observe(observed(replica="r2", target_sha256="a" * 64))
    replicas.observe(observed(**CHANGED))
    down(target)
    assert (alert().state, alert().unknown_why) == ("firing", "r1 does not report")


def test_a_target_that_is_made_inactive_closes_what_nobody_can_say(target, changed, told):
    target.is_active = False
    target.save()
    down(target)
    assert alert().state == "resolved"
    assert "not known to be over: Target weights changed; the target is inactive." in told()[-1]


def test_a_rule_that_is_switched_off_says_no_ended(target, changed, told):
    watching.set_rule(target, "target_changed", "ada", threshold=None, is_enabled=False)
    alerts.evaluate(target, timezone.now())
    assert "not known to be over: Target weights changed; the rule is switched off." in told()[-1]


def test_a_domain_without_traffic_has_not_recovered(target, windows):  # noqa: F811
    windows("sql", 50, 30, 3.0)
    windows("sql", 8, 30, 2.0)
    now = timezone.now()
    for seconds in (0, 61):
        alerts.evaluate(target, now + timedelta(seconds=seconds))
    found = Alert.objects.get(rule="accept_length_fell")
    assert found.state == "firing"
    MetricWindow.objects.all().delete()
    windows("prose", 50, 30, 3.0)
    windows("prose", 8, 30, 3.0)
    alerts.evaluate(target, now + timedelta(seconds=70))
    found.refresh_from_db()
    assert (found.state, found.unknown_why) == ("firing", "nothing is measured of sql now")
    windows("sql", 50, 30, 3.0)
    windows("sql", 8, 30, 3.0)
    alerts.evaluate(target, now + timedelta(seconds=80))
    found.refresh_from_db()
    assert (found.state, found.unknown_since) == ("resolved", None)


def test_one_that_only_waited_to_fire_is_dropped(target, judged, report_in):
    judged()
    report_in("r1", generation=0, version=0, sha256="")
    alerts.evaluate(target, timezone.now())
    assert Alert.objects.get().state == "pending"
    down(target)
    assert not Alert.objects.filter(rule="replica_behind").exists()


def test_the_mail_says_that_it_is_not_known(target, changed, settings, monkeypatch, mailoutbox):
    settings.EMAIL_URL = "smtp://mail.example.org"
    Delivery.objects.all().delete()
    watching.add_channel("by mail", "email", "ada@example.org", "ada")
    down(target)
    down(target, seconds=90_000)
    for row in Delivery.objects.filter(channel__name="by mail", event="alert.resolved"):
        deliver(row.pk)
    [mail] = mailoutbox
    assert mail.subject.startswith("[Aurora demo] Closed, not known to be over: Target weights changed; for a day")
    assert "Ended" not in mail.subject + mail.body
