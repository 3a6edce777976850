"""What is answered about intent, replicas, alerts, approvals and economics, against the API's document."""

import pytest
from django.utils import timezone

from aurora_web.registry.models import Target
from aurora_web.rollouts import alerts, approvals, economics, economics_api, fleet, freeze, intent, swaps
from aurora_web.rollouts.models import Deployment
from tests.unit.aurora_web.documented import as_json

pytestmark = pytest.mark.django_db


def test_replicas_alerts_and_swaps(ask, target, canary):
    found = ask("GET", "/targets/{slug}/replicas", slug="demo")
    assert found == as_json([fleet.standing_payload(each) for each in fleet.standings(target)])
    assert len(found) >= 1
    whole = ask("GET", "/replicas")
    assert whole == as_json([{"target": "demo"} | each for each in found])
    made = ask("GET", "/targets/{slug}/swaps", slug="demo")
    assert made == as_json([swaps.swap_payload(each) for each in swaps.recent_swaps(target, 20)])
    assert {"from", "to"} <= made[0].keys() and any(swap["replicas"] for swap in made)
    assert ask("GET", "/targets/{slug}/swaps/{generation}", slug="demo", generation=made[0]["generation"]) == made[0]
    alert = target.alerts.create(
        rule="replica_behind", state="firing", detail="late", replica="r1", since=canary.created_at
    )
    assert ask("GET", "/targets/{slug}/alerts", slug="demo") == as_json([alerts.alert_payload(alert)])


def test_alerts_of_all_targets_their_rules_and_a_channel(ask, target):
    now = timezone.now()
    alert = target.alerts.create(rule="replica_behind", state="firing", detail="late", since=now, fired_at=now)
    assert ask("GET", "/alerts") == {"items": [as_json(alerts.alert_payload(alert))], "next": None}
    target.alerts.create(rule="swap_failed", state="firing", detail="no file", since=now, fired_at=now)
    assert ask("GET", "/alerts", query="?limit=1")["next"]
    changed = ask("PUT", "/alerts/rules/{slug}/{rule}", {"threshold": 90}, slug="demo", rule="replica_behind")
    assert changed == {"rule": "replica_behind", "threshold": 90, "is_enabled": True}
    alerts.evaluate(target, now)
    listed = {rule["rule"]: rule for rule in ask("GET", "/alerts/rules/{slug}", slug="demo")}
    assert (listed["replica_behind"]["threshold"], listed["target_changed"]["threshold"]) == (90, None)
    made = ask("POST", "/alerts/channels", {"name": "on call", "kind": "webhook", "address": "https://example.com/a"})
    assert (made["kind"], len(made["secret"]) > 20) == ("webhook", True)


def test_a_canary_is_promoted(ask, target, canary):
    [waiting] = ask("GET", "/approvals")
    assert waiting["status"] == "canary"
    answer = ask("POST", "/versions/{version_id}/canary/promote", version_id=canary.pk)
    assert answer == as_json(intent.deployment_payload(Deployment.objects.get()))


def test_what_is_decided_about_versions(ask, target, judged, report):
    judged()
    Target.objects.update(approval="manual")
    first, second = judged(report({"sql": (2.0, 1.0)})), judged(report({"sql": (2.5, 1.0)}))
    assert ask("GET", "/approvals")[0]["worst_domain"]["domain"] == "sql"
    lines = approvals.inbox(approvals.waiting_versions(), "token:admin's", {"read", "operate", "administer"})
    assert ask("GET", "/approvals") == as_json([approvals.waiting_payload(line) for line in lines])
    assert ask("POST", "/versions/{version_id}/judge", version_id=second.pk)["passed"] is True
    assert ask("POST", "/versions/{version_id}/reject", version_id=first.pk) == {"id": first.pk, "status": "rejected"}
    ask("POST", "/versions/{version_id}/approve", version_id=second.pk)
    answer = ask("POST", "/targets/{slug}/rollback", slug="demo")
    assert answer == as_json(intent.deployment_payload(Deployment.objects.get()))
    assert ask("POST", "/targets/{slug}/resume", slug="demo") == {"target": "demo", "is_held": False}


def test_the_freeze_and_the_economics(ask, target):
    ask("GET", "/targets/{slug}/freeze", slug="demo")
    answer = ask("POST", "/targets/{slug}/freeze", {"reason": "holidays"}, slug="demo")
    assert answer == as_json(freeze.freeze_payload(target, freeze.frozen(target)))
    assert ask("POST", "/targets/{slug}/unfreeze", slug="demo")["is_frozen"] is False
    found = ask("GET", "/targets/{slug}/economics", slug="demo")
    expected = as_json(economics_api.economics_payload(economics.economics(target, economics.DEFAULT_RANGE)))
    assert found | {"since": 0, "until": 0} == expected | {"since": 0, "until": 0}
    assert ask("PATCH", "/targets/{slug}/costs", {"engine_hour": 3.5}, slug="demo")["engine_hour"] == 3.5
