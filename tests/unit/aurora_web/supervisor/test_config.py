"""Settings of the supervisor: wrong values stop the start with the variable, the value, and what would be right."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from aurora_web.environment import trainer_device
from aurora_web.supervisor.config import SupervisorConfig
from training_worker.config import ConfigError, wanted_device


def test_defaults_listen_on_loopback(tmp_path: Path) -> None:
    config = SupervisorConfig.from_environment({"AURORA_STATE_DIR": str(tmp_path)})
    assert (config.web_host, config.web_port) == ("127.0.0.1", 8000)
    assert (config.engine_host, config.engine_port) == ("127.0.0.1", 8100)
    assert config.console_url == "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("::", "http://[::1]:8000"),
        ("fd00::2", "http://[fd00::2]:8000"),
        ("console.lan", "http://console.lan:8000"),
    ],
)
def test_the_console_is_found_where_it_listens(host: str, url: str) -> None:
    assert SupervisorConfig.from_environment({"AURORA_WEB_HOST": host}).console_url == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AURORA_WEB_PORT", "80000"),
        ("AURORA_WEB_PORT", "eight"),
        ("AURORA_ENGINE_PORT", "0"),
        ("AURORA_ENGINE_PORT", "8000"),  # the console's
        ("DATABASE_URL", "mysql://localhost/aurora"),
        ("REDIS_URL", "localhost:6379"),
        ("AURORA_STATE_DIR", "/etc/hostname"),
        ("AURORA_CONSOLE_URL", "foo"),
        ("AURORA_CONSOLE_URL", "http://a:port"),
        ("AURORA_ALLOWED_HOSTS", "https://aurora.example.org"),
        ("AURORA_SEGMENT_HOURS", "banana"),
        ("AURORA_TRACE_DAYS", "0"),
        ("AURORA_FIGURE_DAYS", "nan"),
        ("AURORA_KEEP_VERSIONS", "1"),
        ("AURORA_LOG_LEVEL", "banana"),
        ("AURORA_TRAINER_DEVICE", "banana"),
        ("AURORA_EMAIL_URL", "http://mail"),
    ],
)
def test_a_wrong_value_names_the_variable_the_value_and_what_is_right(name: str, value: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        SupervisorConfig.from_environment({name: value})
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)
    assert len(str(caught.value)) > len(name) + len(value) + 20


def test_what_is_empty_is_as_good_as_not_there_and_is_passed_on(tmp_path: Path) -> None:
    named = {"AURORA_STATE_DIR": str(tmp_path), "LANG": ""}
    plain = SupervisorConfig.from_environment(named)
    names = ("WEB_HOST", "WEB_PORT", "ENGINE_HOST", "ENGINE_PORT", "ALLOWED_HOSTS", "CONSOLE_URL", "TRACE_DAYS",
             "LOG_LEVEL", "DEBUG", "EMAIL_URL", "DEMO")  # fmt: skip
    empty = SupervisorConfig.from_environment(named | {f"AURORA_{name}": "" for name in names})
    assert replace(empty, inherited={}) == replace(plain, inherited={})
    assert empty.child_environment("", "")["LANG"] == ""


def test_a_wrong_key_is_not_repeated() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"AURORA_SGLANG_API_KEY.*printable ASCII") as caught:
        SupervisorConfig.from_environment({"AURORA_SGLANG_API_KEY": "sk 17"})
    assert "sk 17" not in str(caught.value)


def test_a_short_secret_key_is_not_shown() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"AURORA_SECRET_KEY.*32 random characters") as caught:
        SupervisorConfig.from_environment({"AURORA_SECRET_KEY": "hush"})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
def test_a_wrong_address_is_shown_without_its_password(name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=name) as caught:
        SupervisorConfig.from_environment({name: "banana://ada:hush@host"})
    assert "hush" not in str(caught.value)


def test_children_get_the_services_and_one_thread(tmp_path: Path) -> None:
    config = SupervisorConfig.from_environment({"AURORA_STATE_DIR": str(tmp_path), "LANG": "C.UTF-8"})
    child = config.child_environment("postgresql:///a", "unix:///s?db=0", "secret")
    assert child["DATABASE_URL"] == "postgresql:///a"
    assert child["AURORA_REPLICA_TOKEN"] == "secret"
    assert child["OMP_NUM_THREADS"] == "1"
    assert child["LANG"] == "C.UTF-8"


@pytest.mark.parametrize("value", ["", " ", "auto", "cpu", "cuda", "cuda:1", "cuda:", "banana", "CPU", "mps"])
def test_the_start_takes_the_devices_that_the_trainer_takes(value: str) -> None:
    environment = {"AURORA_TRAINER_DEVICE": value}

    def answer(read: Callable[[Mapping[str, str]], str]) -> str | None:
        try:
            return read(environment)
        except (ConfigError, ImproperlyConfigured):
            return None

    assert answer(trainer_device) == answer(wanted_device)
