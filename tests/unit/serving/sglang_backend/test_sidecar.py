"""The sidecar's whole conversation: a scripted SGLang server on one side, a scripted console on the other."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from serving.sglang_backend import config as settings
from serving.sglang_backend import sidecar as sidecar_module
from serving.sglang_backend.config import PluginConfigError
from serving.sglang_backend.http_engine import HttpEngine
from serving.sglang_backend.sidecar import following, main, met
from speculators import checkpoint
from speculators.records import DesiredState
from tests.unit.serving.fakes import wait_until
from tests.unit.serving.sglang_backend.fakes import TARGET, draft_state

LAUNCHED, NEXT = (checkpoint.state_digest(draft_state(seed)) for seed in (0, 1))
WRITE = "/update_weights_from_tensor"


@pytest.fixture
def environment(scripted, console, tmp_path):
    return {
        "AURORA_CONSOLE_URL": console.url, "AURORA_TARGET_SLUG": "demo", "AURORA_REPLICA": "r1",
        "AURORA_STATE_DIR": str(tmp_path / "state"), "AURORA_ENGINE_URL": scripted.url,
    }  # fmt: skip


@pytest.fixture
def sidecar(scripted, console, environment, tmp_path):
    """Start one: ``with sidecar() as follower``."""
    config = settings.load("127.0.0.1", 30000, environment)
    console.desired = desired(tmp_path)

    @contextmanager
    def start():
        with following(HttpEngine(scripted.url), config, TARGET) as follower:
            follower.interval_seconds = 0.01
            yield follower

    return start


def desired(tmp_path, generation=1, version=2, sha256=NEXT, lookahead=4, control_share=0.0):
    uri = str(tmp_path / "next")
    return DesiredState("demo", generation, version, uri, sha256, lookahead, control_share, 0.0).to_json()


def reports(console):
    return console.of("/api/v1/ingest/observed")


def told(console, *names):
    """What the last report says of these fields."""
    found = reports(console)
    return tuple(found[-1][name] for name in names) if found else ()


def test_a_server_that_was_started_again_is_given_the_desired_version_once_more(sidecar, scripted, console):
    proved = ("serving", 1, 2, NEXT)
    with sidecar():
        wait_until(lambda: told(console, "state", "generation", "version", "sha256") == proved)
        scripted.status = 503
        wait_until(lambda: told(console, "state", "generation", "version", "sha256") == ("starting", 0, 0, ""))
        assert "503" in told(console, "detail")[0]
        assert scripted.paths().count(WRITE) == 1
        num_reports = len(reports(console))
        scripted.restart()
        wait_until(lambda: told(console, "state", "generation", "version", "sha256") == proved)
        assert ("swapping", 0, LAUNCHED) in [
            (each["state"], each["version"], each["sha256"]) for each in reports(console)[num_reports:]
        ]
        assert scripted.weight_version == "2"
        assert told(console, "detail") == ("",)


def test_a_restart_between_two_reports_is_noticed(sidecar, scripted, console):
    with sidecar():
        wait_until(lambda: told(console, "state", "version") == ("serving", 2))
        num_reports = len(reports(console))
        scripted.restart()
        wait_until(lambda: scripted.weight_version == "2")
        wait_until(lambda: told(console, "state", "generation", "sha256") == ("serving", 1, NEXT))
        lost = next(each for each in reports(console)[num_reports:] if each["state"] == "starting")
        assert (lost["generation"], lost["version"], lost["sha256"]) == (0, 0, LAUNCHED)
        assert "version 2 is gone" in lost["detail"]


def test_without_a_console_it_gives_the_server_what_served_well(sidecar, scripted, console):
    with sidecar():
        wait_until(lambda: told(console, "state", "version") == ("serving", 2))
        console.status = 503
        scripted.restart()
        wait_until(lambda: scripted.weight_version == "2")


def test_a_swap_at_a_server_that_is_away_has_not_failed(sidecar, scripted, console, tmp_path):
    with sidecar():
        wait_until(lambda: told(console, "state", "version") == ("serving", 2))
        scripted.status = 503
        wait_until(lambda: told(console, "state") == ("starting",))
        console.desired = desired(tmp_path, generation=2, version=3)
        num_reports = len(reports(console))
        wait_until(lambda: len(reports(console)) > num_reports + 3)
        scripted.status = 200
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 2, 3))
        assert "swap_failed" not in {each["state"] for each in reports(console)}


def test_a_swap_that_fails_stays_failed_while_the_server_is_away(sidecar, scripted, console):
    """It may be what the server died of: the console must hear of it, and undo it."""
    scripted.fails = WRITE
    with sidecar():
        wait_until(lambda: told(console, "state", "generation") == ("swap_failed", 1))
        scripted.status = 503
        num_reports = len(reports(console))
        wait_until(lambda: len(reports(console)) > num_reports + 3)
        assert told(console, "state", "generation", "version", "sha256") == ("swap_failed", 1, 0, "")


def test_a_server_that_may_stand_still_is_reported_until_it_goes_on(sidecar, scripted, console):
    scripted.fails = "/continue_generation"
    with sidecar():
        wait_until(lambda: told(console, "state", "version") == ("starting", 0) and told(console, "detail") != ("",))
        assert "the server may stand still since the last swap" in told(console, "detail")[0]
        scripted.fails = ""
        wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 1, 2))
        assert not scripted.stands_still
    assert scripted.paths().count(WRITE) == 1


def test_a_sidecar_reports_while_it_hands_a_version_over(sidecar, scripted, console):
    scripted.holds = WRITE
    with sidecar():
        wait_until(lambda: WRITE in scripted.paths())
        num_reports = len(reports(console))
        wait_until(lambda: len(reports(console)) > num_reports + 3)
        assert told(console, "state", "generation", "version", "sha256") == ("swapping", 0, 0, LAUNCHED)
        scripted.gate.set()
        wait_until(lambda: told(console, "state", "generation", "version", "sha256") == ("serving", 1, 2, NEXT))
    assert scripted.paths().count(WRITE) == 1


def test_a_policy_that_changes_without_a_swap_is_answered_for(sidecar, console, tmp_path):
    with sidecar():
        wait_until(lambda: told(console, "state", "version") == ("serving", 2))
        console.desired = desired(tmp_path, lookahead=0)
        wait_until(lambda: "largest lookahead 0" in told(console, "policy_detail")[0])
        assert told(console, "state", "generation", "version") == ("serving", 1, 2)


def test_a_sidecar_that_was_started_again_needs_no_console(sidecar, scripted, console):
    with sidecar():
        wait_until(lambda: told(console, "state", "version") == ("serving", 2))
    console.status = 503
    scripted.restart()
    with sidecar():
        wait_until(lambda: scripted.weight_version == "2")
        console.status = 200
        wait_until(lambda: told(console, "state", "generation", "sha256") == ("serving", 1, NEXT))
    assert scripted.paths().count(WRITE) == 2


def test_the_servers_counts_are_not_reported_as_ours_too(sidecar, console):
    with sidecar():
        wait_until(lambda: told(console, "engine_num_verify_steps", "engine_num_accept_tokens") == (55, 110))
        assert told(console, "num_verify_steps", "num_accept_tokens") == (0, 0)


@pytest.mark.parametrize(
    ("lookahead", "control_share", "said"),
    [
        (0, 0.0, ["largest lookahead 0", "drafts 4 tokens"]),
        (3, 0.0, ["largest lookahead 3"]),
        (6, 0.02, ["control share 0.02"]),
        (0, 0.02, ["largest lookahead 0", " and control share 0.02"]),
        (4, 0.0, []),
    ],
)
def test_what_of_the_policy_does_not_hold_is_reported(sidecar, console, tmp_path, lookahead, control_share, said):
    console.desired = desired(tmp_path, lookahead=lookahead, control_share=control_share)
    with sidecar():
        wait_until(lambda: told(console, "state", "version") == ("serving", 2))
        [detail] = told(console, "policy_detail")
        assert bool(detail) == bool(said)
        assert all(words in detail for words in said)


# -- before the server is there ----------------------------------------------------------------------------------------


@pytest.fixture
def waiting(environment):
    """Wait for the server in a thread: ``with waiting() as future``, which ends with the block."""

    @contextmanager
    def start(**more):
        config, stopped = settings.load("127.0.0.1", 30000, environment | more), threading.Event()
        with ThreadPoolExecutor(1) as thread:
            try:
                yield thread.submit(met, config, stopped, every_seconds=0.01)
            finally:
                stopped.set()

    return start


def test_a_server_that_still_loads_is_waited_for_and_the_console_hears_of_it(waiting, scripted, console):
    scripted.status = 503
    with waiting() as future:
        why = f"waiting for the SGLang server at {scripted.url} (AURORA_ENGINE_URL): /server_info answers HTTP 503"
        wait_until(lambda: told(console, "state", "version", "capture_state") == ("starting", 0, "off"))
        wait_until(lambda: told(console, "detail") == (why,))
        scripted.status = 200
        engine = future.result(60)
        assert engine.server == scripted.info
        engine.close()


def test_a_server_that_does_not_listen_yet_is_waited_for_until_the_sidecar_is_stopped(waiting, scripted, console):
    scripted.server.shutdown()
    scripted.server.server_close()
    with waiting() as future:
        wait_until(lambda: told(console, "state") == ("starting",))
        assert scripted.url in told(console, "detail")[0]
        assert not future.done()
    assert future.result() is None


def test_a_console_that_is_away_keeps_no_sidecar_from_its_server(waiting, scripted, console):
    scripted.status, console.status = 503, 503
    with waiting() as future:
        wait_until(lambda: len(console.refused) > 2)
        scripted.status = 200
        future.result(60).close()


def test_a_server_that_says_nothing_keeps_the_console_from_no_report(waiting, scripted, console):
    """It accepts while it loads, and answers a minute later."""
    scripted.holds = "/server_info"
    with waiting() as future:
        wait_until(lambda: told(console, "state") == ("starting",))
        num_reports = len(reports(console))
        wait_until(lambda: len(reports(console)) > num_reports + 3)
        assert scripted.url in told(console, "detail")[0]
        scripted.gate.set()
        future.result(60).close()


@pytest.mark.parametrize(
    ("status", "info", "variable"),
    [(404, {}, "AURORA_ENGINE_URL"), (401, {}, "AURORA_SGLANG_KEY"), (200, {}, "AURORA_ENGINE_URL"),
     (200, {"speculative_draft_model_path": None}, "AURORA_ENGINE_URL"), (200, [], "AURORA_ENGINE_URL"),
     (200, "ok", "AURORA_ENGINE_URL"), (200, None, "AURORA_ENGINE_URL")],
)  # fmt: skip
def test_a_server_that_will_not_do_is_named_with_the_variable(waiting, scripted, status, info, variable):
    scripted.status, scripted.info = status, info
    with waiting() as future, pytest.raises(PluginConfigError, match=variable) as raised:
        future.result(60)
    assert scripted.url in str(raised.value) and "developer.mozilla" not in str(raised.value)


def test_a_server_without_a_target_will_not_do(waiting, scripted):
    del scripted.info["model_path"]
    with waiting() as future, pytest.raises(PluginConfigError, match="AURORA_ENGINE_URL"):
        future.result(60)


@pytest.fixture
def in_process(environment, monkeypatch):
    """``main`` in a thread: ``with in_process() as (future, obey)``; a signal ends it with the block at the latest."""
    handlers = {}
    monkeypatch.setattr(sidecar_module.signal, "signal", handlers.__setitem__)
    for name, each in environment.items():
        monkeypatch.setenv(name, each)

    def obey(number) -> None:
        wait_until(lambda: number in handlers)
        handlers[number](number, None)

    @contextmanager
    def start():
        with ThreadPoolExecutor(1) as thread:
            try:
                yield thread.submit(main), obey
            finally:
                obey(signal.SIGTERM)

    return start


def test_a_signal_ends_a_sidecar_whose_server_says_nothing(in_process, scripted, console):
    scripted.holds = "/server_info"
    with in_process() as (future, obey):
        wait_until(lambda: told(console, "state") == ("starting",))
        obey(signal.SIGINT)
        assert future.result(30) == 0
        assert not scripted.gate.is_set()


@pytest.mark.parametrize("content", ["{", "[]", "\0"])
def test_a_targets_config_that_cannot_be_read_ends_the_sidecar_with_its_path(
    in_process, scripted, tmp_path, capsys, content
):
    file = tmp_path / "target" / "config.json"
    file.parent.mkdir()
    file.write_text(content)
    scripted.info["model_path"] = str(file.parent)
    with in_process() as (future, _):
        assert future.result(60) == 2
    assert f"error: {file}: must be the target's config.json, with one JSON object: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value"), [("AURORA_ENGINE_URL", "http://h:port"), ("AURORA_STATE_DIR", "/dev/null/x")]
)
def test_settings_that_cannot_be_used_end_the_sidecar_with_their_name(in_process, monkeypatch, capsys, variable, value):
    monkeypatch.setenv(variable, value)
    with in_process() as (future, _):
        assert future.result(60) == 2
    assert f"error: {variable}='{value}'" in capsys.readouterr().err
