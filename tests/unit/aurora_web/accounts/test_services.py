import re
from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.utils import timezone

from aurora_web.accounts import services
from aurora_web.accounts.models import ApiToken, AuditEvent, Invite, User
from aurora_web.accounts.services import AccountError

pytestmark = pytest.mark.django_db


def test_an_invite_works_once(client):
    _, secret = services.create_invite("operator", "ada")
    form = {"username": "bob", "password": "a long password", "repeated": "a long password"}
    assert client.get(f"/accounts/invite/{secret}/").status_code == 200
    assert client.post(f"/accounts/invite/{secret}/", form)["location"] == "/"
    assert User.objects.get().role == "operator"
    assert client.get("/").status_code == 200  # signed in
    assert client.get(f"/accounts/invite/{secret}/").status_code == 410
    with pytest.raises(AccountError, match="has been used"):
        services.accept_invite(secret, "eve", "a long password")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"password": "short", "repeated": "short"}, "too short"),
        ({"repeated": "something else"}, "differ"),
        ({"username": "b o b"}, "valid username"),
        ({"password": "password1234", "repeated": "password1234"}, "too common"),
    ],
)
def test_a_bad_account_is_explained_and_the_invite_still_works(client, changes, named):
    _, secret = services.create_invite("viewer", "ada")
    form = {"username": "bob", "password": "a long password", "repeated": "a long password"}
    answer = client.post(f"/accounts/invite/{secret}/", form | changes)
    assert answer.status_code == 422
    assert named in answer.content.decode()
    assert not User.objects.exists()
    assert services.find_invite(secret) is not None


def test_open_invites_are_listed_with_their_end_and_can_be_revoked(client, clients):
    clients["admin"].post("/accounts/people/invite/", {"role": "operator"})
    page = clients["admin"].get("/accounts/people/").content.decode()
    [invite] = Invite.objects.all()
    ends = f"{invite.expires_at:%Y-%m-%d %H:%M} UTC"
    assert f"Invite link (operator), works once, until {ends}" in page  # where the link is shown, and in the list
    assert f">{ends}</time>" in page.split('aria-label="Open invites"')[1]
    link = re.search(r"/accounts/invite/[^/]+/", page).group()
    assert client.get(link).status_code == 200
    path = f"/accounts/people/invites/{invite.pk}/revoke/"
    assert "is revoked" in clients["admin"].post(path, {"reason": "wrong person"}, follow=True).content.decode()
    event = AuditEvent.objects.get(action="invite.revoke")
    assert (event.actor, event.subject, event.reason) == ("admin", "invite (operator)", "wrong person")
    assert client.get(link).status_code == 410
    assert "Nothing was changed" in clients["admin"].post(path, follow=True).content.decode()
    assert AuditEvent.objects.filter(action="invite.revoke").count() == 1
    assert "Open invites" not in clients["admin"].get("/accounts/people/").content.decode()


def test_a_link_that_leads_nowhere_shows_who_is_signed_in_the_way_back(client, clients):
    signed_in = clients["viewer"].get("/accounts/invite/cut-off/").content.decode()
    assert '<a href="/">Back to the overview</a>' in signed_in and ">Sign in<" not in signed_in
    assert ">Sign in<" in client.get("/accounts/invite/cut-off/").content.decode()


def test_an_expired_invite_is_gone():
    _, secret = services.create_invite("viewer", "ada", lifetime=timedelta(seconds=-1))
    assert services.find_invite(secret) is None
    with pytest.raises((AccountError, ValidationError)):
        services.accept_invite(secret, "bob", "a long password")


def test_only_the_digest_of_a_token_is_kept():
    token, secret = services.create_token("ci", "viewer", "ada")
    assert services.authenticate_token(secret) == token
    assert secret not in str(ApiToken.objects.values().get())
    assert services.authenticate_token(secret + "x") is None
    services.revoke_token(token, "ada")
    assert services.authenticate_token(secret) is None
    assert AuditEvent.objects.get(action="token.revoke").changes == [("is_valid", True, False)]


def test_an_expired_token_is_refused():
    _, secret = services.create_token("ci", "viewer", "ada", expires_at=timezone.now() - timedelta(seconds=1))
    assert services.authenticate_token(secret) is None


def test_the_last_admin_stays_admin():
    only = User.objects.create_user("ada", role="admin")
    with pytest.raises(AccountError, match="last admin"):
        services.set_role(only, "viewer", "ada")
    other = User.objects.create_user("bob", role="admin")
    services.set_role(other, "viewer", "ada")
    assert User.objects.get(username="bob").role == "viewer"


def test_switching_an_account_off_ends_its_sessions_at_once(clients, users):
    assert clients["operator"].get("/").status_code == 200
    clients["admin"].post(f"/accounts/people/{users['operator'].pk}/active/", {"is_active": "0"})
    assert clients["operator"].get("/").status_code == 302
    assert "switched off" in clients["admin"].get("/accounts/people/").content.decode()
    event = AuditEvent.objects.get(action="user.active")
    assert (event.actor, event.before, event.after) == ("admin", {"is_active": True}, {"is_active": False})
    with pytest.raises(AccountError, match="last admin"):
        services.set_active(users["admin"], False, "admin")
    clients["admin"].post(f"/accounts/people/{users['operator'].pk}/active/", {"is_active": "1"})
    users["operator"].refresh_from_db()
    assert users["operator"].is_active


def test_create_token_prints_a_token_that_works(client, capsys):
    call_command("create_token", "--role", "operator")
    secret = capsys.readouterr().out.split()[-1]
    assert client.get("/api/v1/targets", HTTP_AUTHORIZATION=f"Bearer {secret}").json() == []


def test_create_token_names_an_unknown_role():
    from django.core.management import CommandError

    with pytest.raises(CommandError, match="king"):
        call_command("create_token", "--role", "king")
