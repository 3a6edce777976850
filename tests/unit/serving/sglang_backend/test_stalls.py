"""A scheduler that is slow, or stands still: reports go on, and what is desired comes once it turns."""

from __future__ import annotations

import threading
import time

import pytest

from serving.engine.api import EngineSlowError
from serving.sglang_backend import engine as engine_module
from tests.unit.serving.fakes import wait_until
from tests.unit.serving.sglang_backend.fakes import draft_state
from tests.unit.serving.sglang_backend.one_rank import sha256
from tests.unit.serving.sglang_backend.test_sidecar import reports, told

SILENT_SECONDS = 0.5  # after which a console takes a replica for down; much shorter than a stall
WATCHDOG_SECONDS = 300.0  # a turn that takes longer ends SGLang, as it is set by default


@pytest.fixture
def serving(rank, console, follow):
    """``follow``, where version 1 serves already."""
    follow(1, 1)
    wait_until(lambda: told(console, "state", "version") == ("serving", 1))
    return follow


def never(console, *words: str) -> None:
    """No report has said any of these."""
    said = {each["state"] for each in reports(console)} | {each["detail"] for each in reports(console)}
    assert not [each for each in said if any(word in each for word in words)]


def test_a_replica_whose_scheduler_stands_still_is_not_silent_and_swaps_once_it_turns(
    rank, console, serving, monkeypatch
):
    monkeypatch.setattr(engine_module, "WORTH_SAYING_SECONDS", 0.0)
    rank.is_turning.clear()
    began = time.time()
    serving(2, 2)
    for num in (1, 2, 3):
        wait_until(lambda num=num: told(console, "reported_at")[0] > began + num * SILENT_SECONDS)
    assert told(console, "state", "generation", "version", "sha256") == ("swapping", 1, 1, sha256(1))
    assert "version 2 is on its way: the scheduler has not taken up 'prepare' for " in told(console, "detail")[0]
    rank.is_turning.set()
    wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 2, 2))
    assert told(console, "detail") == ("",)
    never(console, "swap_failed", "tried again")


def test_turns_that_always_outlast_the_consoles_patience_hold_no_version_up(rank, console, serving):
    is_over = threading.Event()

    def wait_for_reports(command) -> None:
        began = time.time()
        wait_until(lambda: is_over.is_set() or told(console, "reported_at")[0] > began + SILENT_SECONDS)

    assert engine_module.TURN_SECONDS > WATCHDOG_SECONDS
    rank.before = wait_for_reports
    serving(2, 2)
    wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 2, 2))
    never(console, "swap_failed", "tried again")
    is_over.set()


def test_a_policy_that_waits_for_the_scheduler_silences_nothing(rank, console, serving):
    rank.is_turning.clear()
    began = time.time()
    console.desired = console.desired | {"control_share": 0.5}
    why = "control share 0.5 and largest lookahead 4 do not hold yet: the engine has not taken them up"
    wait_until(lambda: told(console, "reported_at")[0] > began + SILENT_SECONDS)
    wait_until(lambda: told(console, "policy_detail", "state", "version") == (why, "serving", 1))
    rank.is_turning.set()
    wait_until(lambda: told(console, "policy_detail") == ("",) and rank.policy.control_share == 0.5)


def test_a_scheduler_that_stands_still_for_longer_is_asked_again_until_it_turns(rank, console, serving, monkeypatch):
    monkeypatch.setattr(engine_module, "TURN_SECONDS", 0.2)
    rank.is_turning.clear()
    serving(2, 2)
    why = "version 2 is tried again: the scheduler did not take up 'prepare' within 0 s"
    wait_until(lambda: told(console, "state", "generation", "version", "detail") == ("swapping", 1, 1, why))
    monkeypatch.setattr(engine_module, "TURN_SECONDS", 60.0)
    rank.is_turning.set()
    wait_until(lambda: told(console, "state", "generation", "version") == ("serving", 2, 2))
    never(console, "swap_failed")
    assert rank.memory.holds(draft_state(2))


def test_a_stall_before_the_proof_is_no_failed_proof(rank, console, serving, monkeypatch):
    """The new version is in memory, and nobody knows yet whether rightly so."""
    monkeypatch.setattr(engine_module, "TURN_SECONDS", 0.2)
    rank.after = lambda command: command.kind == "apply" and rank.is_turning.clear()
    serving(2, 2)
    why = "version 2 is tried again: the scheduler did not take up 'prove' within 0 s"
    wait_until(lambda: told(console, "state", "generation", "detail") == ("swapping", 1, why))
    monkeypatch.setattr(engine_module, "TURN_SECONDS", 60.0)
    rank.after = lambda command: None
    rank.is_turning.set()
    wait_until(lambda: told(console, "state", "generation", "version", "sha256") == ("serving", 2, 2, sha256(2)))
    assert rank.engine.stats().previous == 1
    never(console, "swap_failed", "reverted")


def test_a_command_that_is_given_up_is_not_obeyed_later(rank, monkeypatch):
    monkeypatch.setattr(engine_module, "TURN_SECONDS", 0.2)
    rank.is_turning.clear()
    assert isinstance(rank.swap(1).exception(), EngineSlowError)
    assert {"prepare", "apply"}.isdisjoint(command.kind for command in rank.engine.outbox)


def test_the_ranks_have_their_time_to_prove_from_the_first_turn_on(rank, monkeypatch):
    """However long that turn was in coming: it says nothing about them."""
    monkeypatch.setattr(engine_module, "READY_SECONDS", 0.2)
    is_late = threading.Event()

    def late(command) -> None:
        if command.kind == "prove" and not is_late.is_set():
            is_late.set()
            began = time.monotonic()
            wait_until(lambda: time.monotonic() > began + 2 * engine_module.READY_SECONDS)
            monkeypatch.setattr(engine_module, "READY_SECONDS", 60.0)

    rank.before = late
    rank.pair.other = lambda line: "not yet" if line == sha256(1) and not has_said_so(rank) else line
    assert rank.swap(1).result().sha256 == sha256(1)


def has_said_so(rank) -> bool:
    """Whether the other rank has been asked before."""
    rank.num_asked = getattr(rank, "num_asked", 0) + 1
    return rank.num_asked > 1
