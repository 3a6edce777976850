"""Signing in through a real OpenID Connect provider on loopback, and every way in which that must fail."""

import logging
import time
from urllib.parse import urlsplit

import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import Client

from aurora_web import environment
from aurora_web.accounts.models import AuditEvent, OidcIdentity, User

pytest.importorskip("authlib", reason="the extra of requirements-oidc.txt is not installed")
pytest.importorskip("requests", reason="the extra of requirements-oidc.txt is not installed")

from joserfc.jwk import RSAKey

from tests.unit.aurora_web.accounts.oidc_provider import CLIENT_ID, CLIENT_SECRET, running_provider

ROLES = "admins=admin,ops=operator"


def environ(issuer, **more):
    return {
        "AURORA_OIDC_ISSUER": issuer,
        "AURORA_OIDC_CLIENT_ID": CLIENT_ID,
        "AURORA_OIDC_CLIENT_SECRET": CLIENT_SECRET,
        "AURORA_OIDC_ROLES": ROLES,
        **more,
    }


@pytest.fixture
def provider(db, settings, caplog):
    caplog.set_level(logging.CRITICAL, "authlib")
    with running_provider() as found:
        settings.OIDC = environment.oidc(environ(found.issuer))
        yield found


def sign_in(browser, wanted="/audit/"):
    """Through the provider and back; the console's last answer."""
    begun = browser.get("/accounts/oidc/login/", {"next": wanted})
    if begun.status_code != 302:
        return begun
    back = httpx.get(begun["location"], follow_redirects=False).headers["location"]
    return browser.get(f"{urlsplit(back).path}?{urlsplit(back).query}")


def test_the_first_time_makes_a_person_with_the_role_of_the_groups(provider):
    browser = Client()
    answer = sign_in(browser)
    assert (answer.status_code, answer["location"]) == (302, "/audit/")
    user = User.objects.get()
    assert (user.username, user.role, user.has_usable_password()) == ("grace", "operator", False)
    assert browser.get("/rollback/").status_code == 200
    assert browser.get("/accounts/people/").status_code == 403
    event = AuditEvent.objects.get(action="user.create")
    assert event.facts == {"issuer": provider.issuer, "subject": "1234"}
    assert event.after == {"role": "operator"}


def test_the_next_time_it_is_the_same_person_with_the_role_of_today(provider):
    sign_in(Client())
    provider.claims |= {"preferred_username": "grace.hopper", "groups": ["ops", "admins", "tea"]}
    sign_in(Client())
    user = User.objects.get()
    assert (user.username, user.role) == ("grace", "admin")
    provider.claims["groups"] = "ops"  # some providers send one group as text
    User.objects.create(username="ada", role="admin")
    sign_in(Client())
    user.refresh_from_db()
    assert user.role == "operator"
    roles = AuditEvent.objects.filter(action="user.role", actor="oidc").order_by("id")
    assert [event.after["role"] for event in roles] == ["admin", "operator"]


def test_the_last_admin_stays_one(provider):
    provider.claims["groups"] = ["admins"]
    sign_in(Client())
    provider.claims["groups"] = ["ops"]
    assert sign_in(Client()).status_code == 302
    assert User.objects.get().role == "admin"
    assert "last admin" in AuditEvent.objects.get(action="user.role_kept").reason


def test_who_is_in_no_group_is_told_and_not_let_in(provider):
    provider.claims["groups"] = ["tea"]
    browser = Client()
    answer = sign_in(browser)
    assert answer.status_code == 403
    assert "none of the groups that may use this console (admins, ops) is in your groups" in answer.content.decode()
    assert not User.objects.exists()
    assert AuditEvent.objects.get(action="user.refuse").detail["subject"] == "1234"
    assert browser.get("/").status_code == 302


def test_everybody_may_be_a_viewer(provider, settings):
    settings.OIDC = environment.oidc(environ(provider.issuer, AURORA_OIDC_ROLES=f"{ROLES},*=viewer"))
    del provider.claims["groups"]
    assert sign_in(Client()).status_code == 302
    assert User.objects.get().role == "viewer"


def test_a_name_never_opens_an_account_that_is_here(provider):
    local = User.objects.create_user("Grace", password="a long password", role="admin")
    sign_in(Client())
    made = OidcIdentity.objects.get().user
    assert made != local
    assert (made.username, made.role) == ("grace@127.0.0.1", "operator")


def test_who_is_switched_off_here_stays_out(provider):
    sign_in(Client())
    User.objects.update(is_active=False)
    answer = sign_in(Client())
    assert (answer.status_code, "grace is switched off here" in answer.content.decode()) == (403, True)


@pytest.mark.parametrize(
    "spoil",
    [
        {"key": RSAKey.generate_key(2048, {"kid": "k1"})},
        {"aud": "another client"},
        {"iss": "https://elsewhere.example"},
        {"nonce": "an older one"},
        {"exp": int(time.time()) - 3600, "iat": int(time.time()) - 7200},
        {"sub": ""},
    ],
    ids=lambda spoil: next(iter(spoil)),
)
def test_a_token_that_is_not_the_providers_for_us_and_now_lets_nobody_in(provider, spoil):
    provider.spoil = spoil
    browser = Client()
    answer = sign_in(browser)
    assert (answer.status_code, "Not signed in" in answer.content.decode()) == (502, True)
    assert not User.objects.exists()
    assert browser.get("/").status_code == 302


def test_an_answer_to_another_browser_lets_nobody_in(provider):
    begun = Client().get("/accounts/oidc/login/")
    back = httpx.get(begun["location"], follow_redirects=False).headers["location"]
    answer = Client().get(f"{urlsplit(back).path}?{urlsplit(back).query}")
    assert answer.status_code == 502
    assert not User.objects.exists()


def test_a_wrong_client_secret_and_a_provider_that_is_away_are_said(provider, settings):
    settings.OIDC = environment.oidc(environ(provider.issuer, AURORA_OIDC_CLIENT_SECRET="wrong"))
    assert sign_in(Client()).status_code == 502
    settings.OIDC = environment.oidc(environ("http://127.0.0.1:1"))
    answer = sign_in(Client())
    assert (answer.status_code, "the provider did not answer" in answer.content.decode()) == (502, True)


def test_the_way_back_never_leaves_the_console(provider):
    assert sign_in(Client(), "https://elsewhere.example/")["location"] == "/"


def test_it_is_off_without_an_issuer(client, db):
    assert client.get("/accounts/oidc/login/").status_code == 404
    assert client.get("/accounts/oidc/callback/").status_code == 404
    assert "Sign in with single" not in client.get("/accounts/login/").content.decode()
    assert environment.oidc({"PATH": "/bin"}) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"AURORA_OIDC_ISSUER": "http://login.example.org"}, r"AURORA_OIDC_ISSUER='http://login.example.org'.*https"),
        ({"AURORA_OIDC_ISSUER": ""}, "AURORA_OIDC_ISSUER='' cannot be used"),
        ({"AURORA_OIDC_CLIENT_ID": ""}, "AURORA_OIDC_CLIENT_ID='' cannot be used"),
        ({"AURORA_OIDC_SCOPE": "profile"}, "AURORA_OIDC_SCOPE='profile'.*expected openid"),
        ({"AURORA_OIDC_ROLES": "admins=king"}, "AURORA_OIDC_ROLES='admins=king'.*expected pairs"),
        ({"AURORA_OIDC_ROLES": ""}, "AURORA_OIDC_ROLES=''.*expected pairs"),
        ({"AURORA_OIDC_GROUP": "x"}, "AURORA_OIDC_GROUP='x'.*expected one of ISSUER"),
    ],
)
def test_a_wrong_value_stops_the_start(changes, words):
    with pytest.raises(ImproperlyConfigured, match=words):
        environment.oidc(environ("https://login.example.org") | changes)


def test_without_the_packages_the_start_says_what_to_do(monkeypatch):
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    with pytest.raises(ImproperlyConfigured, match=r"requirements-oidc\.txt are missing: make oidc"):
        environment.oidc(environ("https://login.example.org"))
