"""Settings of the console from its environment: e-mail, a key that no error repeats, hosts, what is empty."""

import json
import os
import subprocess
import sys

import pytest
from django.core.exceptions import ImproperlyConfigured

from aurora_web.environment import allowed_hosts, email, secret
from aurora_web.supervisor.config import REPO

# What the file of the compose services passes on, whether somebody has set it or not.
PASSED_ON = ("SECRET_KEY", "LOG_LEVEL", "EMAIL_URL", "EMAIL_FROM", "TRACE_DAYS", "SEGMENT_HOURS", "FIGURE_DAYS",
             "KEEP_VERSIONS", "CODE_VERSION", "SGLANG_API_KEY", "ALLOWED_HOSTS", "CONSOLE_URL", "DEBUG", "WEB_HOST",
             "WEB_PORT", "MODELS_DIR", "OIDC_ISSUER", "OIDC_ROLES")  # fmt: skip
SHOW = """
import json
from aurora_web import settings
names = [name for name in dir(settings) if name.isupper()]
print(json.dumps({name: getattr(settings, name) for name in names}, default=str))
"""


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


def test_what_is_empty_is_as_good_as_not_there(tmp_path):
    def settings_with(**given):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AURORA_")}
        environment = {**kept, "AURORA_STATE_DIR": str(tmp_path), **given}
        said = subprocess.run([sys.executable, "-c", SHOW], cwd=REPO, env=environment, capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        return json.loads(said.stdout)

    plain = settings_with()
    assert settings_with(**{f"AURORA_{name}": "" for name in PASSED_ON}) == plain
    assert (plain["DEFAULT_FROM_EMAIL"], plain["TRACE_DAYS"]) == ("aurora@localhost", 7)
    assert settings_with(AURORA_ENGINE_PORT="banana") == plain, "the engine's, which the console does not read"
