"""Why something was done: what a person changes takes a reason, in a field of its form and in a header of the API."""

import json
import re

import pytest

from aurora_web.accounts.models import AuditEvent
from aurora_web.accounts.services import create_invite, create_token, record
from aurora_web.registry.models import Target
from aurora_web.rollouts import services, watching
from aurora_web.traces import domains, pins
from speculators.records import DomainPin

pytestmark = pytest.mark.django_db
WHY = "asked for by its owner"
PEOPLE, TOKENS, CHANNELS, DOMAINS = (
    "/accounts/people/",
    "/accounts/tokens/",
    "/alerts/channels/",
    "/targets/demo/domains/",
)


def user_role(target, users, swap):
    return PEOPLE, f"{PEOPLE}{users['viewer'].pk}/role/", {"role": "operator"}


def user_active(target, users, swap):
    return PEOPLE, f"{PEOPLE}{users['viewer'].pk}/active/", {"is_active": "0"}


def invite_create(target, users, swap):
    return PEOPLE, f"{PEOPLE}invite/", {"role": "viewer"}


def token_create(target, users, swap):
    return TOKENS, "", {"name": "ci", "scopes": "read", "days": "30"}


def token_revoke(target, users, swap):
    token, _ = create_token("old", "viewer", "ada")
    return TOKENS, f"{TOKENS}{token.pk}/revoke/", {}


def channel_create(target, users, swap):
    return CHANNELS, "", {"name": "on call", "kind": "webhook", "address": "http://127.0.0.1:1/x"}


def channel_delete(target, users, swap):
    channel, _ = watching.add_channel("gone", "webhook", "http://127.0.0.1:1/x", "ada")
    return CHANNELS, f"{CHANNELS}{channel.pk}/remove/", {}


def alert_rule(target, users, swap):
    return "/alerts/rules/?target=demo", "", {"rule": "spool_growing", "threshold": "500", "is_enabled": "on"}


def alert_unsilence(target, users, swap):
    row = watching.silence("olga", 1, "maintenance", target)
    return "/alerts/", f"/alerts/silences/{row.pk}/end/", {}


def domain_rule_end(target, users, swap):
    rule = domains.add_rules(target, "exact", ["sql"], "data", "olga", "")[0]
    return DOMAINS, f"{DOMAINS}rules/{rule.pk}/end/", {}


def domain_unpin(target, users, swap):
    revision = pins.pin(target, DomainPin("sql", lookahead=1), "olga").revision
    return DOMAINS, DOMAINS, {"form": "pin", "domain": "sql", "seen_domain": "sql", "revision": revision}


def target_settings(target, users, swap):
    form = {
        "form": "traffic", "traffic_enabled": "on", "traffic_concurrency": "3", "traffic_requests_per_second": "0",
        "traffic_mix": "sql=2", "traffic_max_tokens": "64", "traffic_sampled_share": "0.5", "traffic_schedule": "[]",
    }  # fmt: skip
    return "/targets/demo/settings/", "", form


def invite_revoke(target, users, swap):
    made, _ = create_invite("viewer", "ada")
    return PEOPLE, f"{PEOPLE}invites/{made.pk}/revoke/", {}


def target_resume(target, users, swap):
    return f"/targets/demo/swaps/{swap}/", "/targets/demo/resume/", {}


CASES = [
    user_role, user_active, invite_create, invite_revoke, token_create, token_revoke, channel_create, channel_delete,
    alert_rule, alert_unsilence, domain_rule_end, domain_unpin, target_settings, target_resume,
]  # fmt: skip


@pytest.fixture
def swap(target, make_version, report):
    """The generation of a rollback, which holds the target."""
    services.judge(make_version())
    services.judge(make_version(report({"sql": (2.0, 1.0)})))
    return services.rollback(target, "olga", "looked slow").generation


@pytest.mark.parametrize("case", CASES)
def test_what_a_person_changes_asks_why_and_the_log_keeps_it(clients, target, users, swap, case):
    page, address, form = case(target, users, swap)
    shown = clients["admin"].get(page).content.decode()
    forms = re.findall(r"<form method=\"post\"([^>]*)>(.*?)</form>", shown, re.DOTALL)
    ours = [body for head, body in forms if (f'action="{address}"' in head if address else "action=" not in head)]
    assert any('name="reason"' in body for body in ours)
    answer = clients["admin"].post(address or page, form | {"reason": WHY})
    assert answer.status_code == 302, answer.content.decode()
    event = AuditEvent.objects.filter(action=case.__name__.replace("_", ".", 1)).first()
    assert (event.actor, event.reason) == ("admin", WHY)


def patch(client, bearer, body, **headers):
    return client.patch("/api/v1/targets/demo", json.dumps(body), "application/json", **bearer("admin"), **headers)


def test_the_api_takes_it_in_a_header_in_utf_8_and_in_the_body_first(client, bearer, target):
    said = "größere Last erwartet"
    header = {"HTTP_X_AURORA_REASON": said.encode().decode("latin-1")}
    assert patch(client, bearer, {"control_share": 0.2}, **header).status_code == 200
    assert AuditEvent.objects.get(action="target.settings").reason == said
    assert patch(client, bearer, {"control_share": 0.3, "reason": "in the body"}, **header).status_code == 200
    assert AuditEvent.objects.filter(action="target.settings").first().reason == "in the body"


def test_a_reason_is_of_its_request_alone(client, bearer, target, clients):
    patch(client, bearer, {"control_share": 0.2}, HTTP_X_AURORA_REASON="once")
    patch(client, bearer, {"control_share": 0.3})
    record("beat", "target.settings", "demo")
    changes = AuditEvent.objects.filter(action="target.settings").order_by("pk")
    assert list(changes.values_list("reason", flat=True)) == ["once", "", ""]


def test_a_reason_is_one_line_of_text(clients):
    clients["admin"].post(f"{PEOPLE}invite/", {"role": "viewer", "reason": "x\0y\n" + "z" * 1000})
    reason = AuditEvent.objects.get(action="invite.create").reason
    assert (reason[:4], len(reason)) == ("xy z", 500)


def test_who_registers_or_invites_leaves_what_came_of_it(clients, target):
    assert AuditEvent.objects.get(action="target.register").after["source"] == Target.objects.get().source
    clients["admin"].post(f"{PEOPLE}invite/", {"role": "viewer"})
    event = AuditEvent.objects.get(action="invite.create")
    assert event.after["role"] == "viewer"
    assert "changed no field" not in clients["admin"].get(f"/audit/{event.pk}/").content.decode()
