"""Settings of the console from its environment: e-mail from one address, a key that no error repeats, hosts."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from aurora_web.environment import allowed_hosts, email, secret


def test_without_an_address_nothing_is_sent():
    assert email("") == {"EMAIL_BACKEND": "django.core.mail.backends.dummy.EmailBackend"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("smtp://ada:p%40ss@mail.example.org", ("mail.example.org", 587, "ada", "p@ss", False, True)),
        ("smtps://mail.example.org", ("mail.example.org", 465, "", "", True, False)),
        ("smtp://localhost:2525?tls=0", ("localhost", 2525, "", "", False, False)),
    ],
)
def test_an_address_becomes_settings(value, expected):
    found = email(value)
    names = ("HOST", "PORT", "HOST_USER", "HOST_PASSWORD", "USE_SSL", "USE_TLS")
    assert tuple(found[f"EMAIL_{name}"] for name in names) == expected


@pytest.mark.parametrize("value", ["http://ada:secret@x", "smtp://", "smtp://ada:secret@x:port"])
def test_a_wrong_address_is_named_without_its_password(value):
    with pytest.raises(ImproperlyConfigured, match="AURORA_EMAIL_URL") as caught:
        email(value)
    assert "secret" not in str(caught.value)


def test_a_key_is_taken_as_it_is():
    assert (secret({"KEY": "s3cr3t-_~"}, "KEY"), secret({}, "KEY")) == ("s3cr3t-_~", "")


@pytest.mark.parametrize("value", ["secret key", "secret\n", "secrét"])
def test_a_key_that_no_header_takes_is_named_without_its_value(value):
    with pytest.raises(ImproperlyConfigured, match="KEY='…' cannot be used") as caught:
        secret({"KEY": value}, "KEY")
    assert value not in str(caught.value)


def test_a_browser_may_call_the_console_by_the_ipv6_address_on_which_it_listens(client, settings):
    settings.ALLOWED_HOSTS = allowed_hosts({}, "fd00::2")
    assert client.get("/healthz", headers={"host": "[fd00::2]:8000"}).status_code == 200
    assert client.get("/healthz", headers={"host": "[fd00::3]:8000"}).status_code == 400
