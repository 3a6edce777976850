"""What only this machine can tell of the settings is found before anything is started."""

import os
import socket
import subprocess
import sys
import time

import pytest
from django.core.exceptions import ImproperlyConfigured

from aurora_web.supervisor import ports, reach
from aurora_web.supervisor.config import REPO


@pytest.fixture
def nobody():
    """A port of this machine on which nobody listens, kept from others."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


def up(tmp_path, **given):
    """What ``up`` says with these variables, and the files that it left; it must end by itself."""
    with socket.socket() as web, socket.socket() as engine:
        for each in (web, engine):
            each.bind(("127.0.0.1", 0))
        free = {"AURORA_WEB_PORT": str(web.getsockname()[1]), "AURORA_ENGINE_PORT": str(engine.getsockname()[1])}
    environment = {**os.environ, "AURORA_STATE_DIR": str(tmp_path / "state"), **free, **given}
    for name in ("DATABASE_URL", "REDIS_URL"):
        if name not in given:
            environment.pop(name, None)
    ended = subprocess.run([sys.executable, "-m", "aurora_web.supervisor", "up"], cwd=REPO, env=environment,
                           capture_output=True, text=True, timeout=120)  # fmt: skip
    assert ended.returncode == 2 and "Traceback" not in ended.stdout + ended.stderr, ended.stdout + ended.stderr
    assert {path.name for path in (tmp_path / "state").glob("*")} <= {"supervisor.lock"}
    return ended.stdout


@pytest.mark.parametrize(
    ("name", "value"),
    [("AURORA_WEB_HOST", "foo.invalid"), ("AURORA_ENGINE_HOST", "banana.invalid"), ("AURORA_STATE_DIR", "/proc/xx"),
     ("AURORA_TRAINER_DEVICE", "banana")],
)  # fmt: skip
def test_the_start_stops_with_one_sentence(tmp_path, name, value):
    said = up(tmp_path, **{name: value})
    assert name in said and value in said and said.count("\n") == 1


def test_servers_that_do_not_answer_are_named_without_their_passwords(tmp_path, nobody):
    began = time.monotonic()
    said = up(tmp_path, DATABASE_URL=f"postgresql://ada:hush@127.0.0.1:{nobody}/aurora")
    assert "DATABASE_URL='postgresql://…@127.0.0.1" in said and "hush" not in said
    said = up(tmp_path, REDIS_URL=f"redis://:hush@127.0.0.1:{nobody}/0")
    assert "REDIS_URL='redis://…@127.0.0.1" in said and "hush" not in said
    assert time.monotonic() - began < 40


def test_a_password_in_the_query_is_not_shown_either(nobody):
    with pytest.raises(ImproperlyConfigured, match="password=…&host=") as caught:
        reach.check_database(f"postgresql:///aurora?password=hush&host=127.0.0.1&port={nobody}")
    assert "hush" not in str(caught.value)


def test_a_server_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(reach, "SECONDS", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ImproperlyConfigured, match="REDIS_URL"):
            reach.check_redis(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")


def test_a_busy_port_a_wrong_host_and_a_port_of_roots_are_told_apart(monkeypatch):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        with pytest.raises(ImproperlyConfigured, match=r"AURORA_WEB_PORT.*another program listens"):
            ports.check("AURORA_WEB", "127.0.0.1", busy.getsockname()[1])
    for host in ("192.0.2.1", "foo.invalid", "", "a..b"):
        with pytest.raises(ImproperlyConfigured, match=f"AURORA_ENGINE_HOST={host!r}.*address of this machine"):
            ports.check("AURORA_ENGINE", host, 18100)

    with pytest.raises(ImproperlyConfigured, match=r"AURORA_WEB_HOST='fe80::1%lo'.*cannot name an interface"):
        ports.check("AURORA_WEB", "fe80::1%lo", 18100)

    def refuse(host, port):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ports, "_bind", refuse)
    with pytest.raises(ImproperlyConfigured, match=r"AURORA_WEB_PORT='80'.*from 1024 on"):
        ports.check("AURORA_WEB", "127.0.0.1", 80)
