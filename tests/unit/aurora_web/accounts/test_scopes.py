"""Tokens with scopes: chosen one by one, never more than their maker may, now or later."""

import json
import logging

import pytest
from django.core.management import CommandError, call_command

from aurora_web.accounts import services
from aurora_web.accounts.access import allow
from aurora_web.accounts.auth import Allow
from aurora_web.accounts.models import ApiToken, AuditEvent
from aurora_web.accounts.scopes import ScopeMissing
from aurora_web.accounts.services import AccountError

pytestmark = pytest.mark.django_db
JSON = {"content_type": "application/json"}


def post(client, headers, **body):
    return client.post("/api/v1/tokens", json.dumps(body), **JSON, **headers)


def headers_of(secret):
    return {"HTTP_AUTHORIZATION": f"Bearer {secret}"}


def test_scopes_are_chosen_one_by_one_and_written_down(client, bearer):
    made = post(client, bearer("admin"), name="ci", scopes=["operate", "read"]).json()
    assert made["scopes"] == ["operate", "read"]
    assert client.get("/api/v1/targets", **headers_of(made["token"])).status_code == 200
    refused = post(client, headers_of(made["token"]), name="more", scopes=["read"])
    assert (refused.status_code, refused.json()["missing_scope"]) == (403, "administer")
    event = AuditEvent.objects.get(subject="token ci (read, operate)")
    assert event.after == {"scopes": ["read", "operate"]}


def test_nobody_gives_away_what_he_lacks(client):
    _, secret = services.create_token("narrow", "", "test", scopes=["administer"])
    refused = post(client, headers_of(secret), name="wide", scopes=["administer", "operate"])
    assert (refused.status_code, refused.json()["missing_scope"]) == (403, "operate")
    assert post(client, headers_of(secret), name="wide", role="operator").status_code == 403
    assert not ApiToken.objects.filter(name="wide").exists()
    assert post(client, headers_of(secret), name="engine", role="replica").status_code == 201  # whoever administers may


def test_a_token_shrinks_with_its_owner_but_engines_go_on(client, users):
    admin = users["admin"]
    scopes = ["read", "operate", "ingest"]
    token, secret = services.create_token("ada's", "", "ada", scopes=scopes, owner=admin, maker_scopes=admin.scopes)
    assert sorted(token.scopes) == sorted(scopes)
    admin.role = "viewer"
    admin.save()
    assert services.authenticate_token(secret).scopes == {"read", "ingest"}
    refused = client.post("/api/v1/targets/demo/rollback", **JSON, **headers_of(secret))
    assert refused.json()["missing_scope"] == "operate"
    admin.is_active = False
    admin.save()
    assert services.authenticate_token(secret).scopes == {"ingest"}


def test_a_token_made_with_a_token_is_bound_to_the_same_person(client, users):
    admin = users["admin"]
    _, first = services.create_token("first", "admin", "ada", owner=admin)
    second = post(client, headers_of(first), name="second", scopes=["operate"]).json()["token"]
    admin.role = "viewer"
    admin.save()
    assert services.authenticate_token(second).scopes == frozenset()


def test_old_tokens_with_a_role_keep_working(client):
    _, secret = services.create_token("old", "operator", "test")
    assert services.authenticate_token(secret).scopes == {"read", "operate", "register"}
    assert client.get("/api/v1/targets", **headers_of(secret)).status_code == 200


@pytest.mark.parametrize(
    ("role", "scopes", "words"),
    [
        ("", [], "name one of the two"),
        ("viewer", ["read"], "name one of the two"),
        ("king", [], "'king' is unknown: expected one of viewer"),
        ("", ["read", "rule"], "'rule' is unknown: expected one of read, ingest"),
    ],
)
def test_what_cannot_be_granted_is_named(role, scopes, words):
    with pytest.raises(AccountError, match=words):
        services.create_token("x", role, "test", scopes=scopes)


def test_the_command_takes_scopes(client, capsys):
    call_command("create_token", "--scope", "read", "--scope", "register", "--days", "3")
    secret = capsys.readouterr().out.strip()
    token = services.authenticate_token(secret)
    assert (token.scopes, token.name) == ({"read", "register"}, "read, register token")
    assert token.expires_at is not None
    for wrong in (("--scope", "king"), ("--role", "viewer", "--scope", "read"), ()):
        with pytest.raises(CommandError):
            call_command("create_token", *wrong)


def test_a_page_says_whose_role_it_takes(clients, caplog):
    caplog.set_level(logging.CRITICAL)
    page = clients["viewer"].get("/targets/new/")
    assert page.status_code == 403
    assert "Your role is viewer, and this is for operators and admins." in page.content.decode()


def test_a_misspelt_scope_stops_the_start():
    for wrong in (Allow, allow):
        with pytest.raises(ValueError, match="'raed' is unknown"):
            wrong("raed")


def test_a_role_is_no_way_around(users):
    with pytest.raises(ScopeMissing):
        services.create_token("x", "admin", "olga", owner=users["operator"], maker_scopes=users["operator"].scopes)


def test_nobody_makes_others_more_than_he_may_give_away(client, users):
    _, secret = services.create_token("narrow", "", "test", scopes=["administer"])
    _, whole = services.create_token("whole", "admin", "test")
    person = f"/api/v1/users/{users['viewer'].pk}"
    for call, address in ((client.post, "/api/v1/invites"), (client.patch, person)):
        body = json.dumps({"role": "admin"})
        refused = call(address, body, **JSON, **headers_of(secret))
        assert (refused.status_code, refused.json()["missing_scope"]) == (403, "read")
        assert call(address, body, **JSON, **headers_of(whole)).status_code in {200, 201}
    users["viewer"].refresh_from_db()
    assert users["viewer"].role == "admin"
    assert AuditEvent.objects.filter(action="invite.create").count() == 1
