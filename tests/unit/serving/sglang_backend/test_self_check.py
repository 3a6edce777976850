"""What the console is told of capture on SGLang, whatever has gone wrong in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from serving.engine.api import Request
from serving.sglang_backend.guard import MAX_FAILURES, SILENT_STEPS, Guard
from serving.sglang_backend.self_check import SelfCheck
from speculators.records import StepRecord
from tests.unit.serving.fakes import make_finished
from tests.unit.serving.sglang_backend.fakes import CAPTURE_HOOKS


def fire(guard, *names):
    for name in names:
        guard.run(name, lambda: None)


def fail(guard, name):
    def work():
        raise ValueError("no")

    for _ in range(MAX_FAILURES):
        guard.run(name, work)


@pytest.fixture
def guards():
    return Guard(), Guard()


@pytest.fixture
def check(guards):
    return SelfCheck(*guards, [], is_wanted=True)


def finished(num_states=None, **changes):
    """Of a request of six tokens, three of them generated, with as many states as there are positions."""
    request = make_finished(Request("a", (1, 2, 3)), [4, 5, 6], (StepRecord((9,), 0), StepRecord((9,), 0)))
    states = request.states if num_states is None else torch.zeros(num_states, 12)
    return replace(request, **{"states": states, **changes})


def test_it_works_once_a_request_has_been_seen(check, guards):
    assert check.state(0) == ("working", "not seen at work yet: no request has taken a verify step")
    fire(guards[0], *CAPTURE_HOOKS)
    check.look_at(finished())
    assert (check.state(10**6), check.broken) == (("working", ""), "")


def test_nothing_is_learnt_from_while_it_is_shown_as_broken(guards):
    """A hook that this SGLang does not have may be one without which capture goes on."""
    without = SelfCheck(*guards, ["a.b"], is_wanted=True)
    assert without.state(0) == ("broken", "this SGLang has no a.b")
    assert not without.keeps_traces
    whole = SelfCheck(*guards, [], is_wanted=True)
    assert whole.keeps_traces
    whole.told("states are missing")
    assert not whole.keeps_traces


@pytest.mark.parametrize("silent", CAPTURE_HOOKS)
def test_a_hook_that_did_not_fire_for_a_request_is_named(check, guards, silent):
    fire(guards[0], *(name for name in CAPTURE_HOOKS if name != silent))
    check.look_at(finished(steps=()))  # it took no verify step: nothing is known yet
    assert check.broken == ""
    check.look_at(finished())
    assert check.state(0) == ("broken", f"hooks {silent} have not fired, so it is not clear what the hooks see")
    fire(guards[0], silent)
    check.look_at(finished())
    assert check.state(0)[0] == "broken", "what is lost stays unclear until the server starts again"


@pytest.mark.parametrize("silent", CAPTURE_HOOKS)
def test_a_hook_that_never_fires_breaks_capture_although_no_request_ever_ends_for_us(check, guards, silent):
    fire(guards[0], *(name for name in CAPTURE_HOOKS if name != silent))
    assert check.state(SILENT_STEPS - 1) == (
        "working",
        "not seen at work yet: no request has taken a verify step",
    )
    assert check.state(SILENT_STEPS) == (
        "broken",
        f"hooks {silent} have not fired, so it is not clear what the hooks see",
    )


def test_hooks_that_keep_requests_from_us_are_found_by_sglangs_own_count(check, guards):
    fire(guards[0], "prefill", "final", "stream", "request")
    assert check.state(SILENT_STEPS - 1)[0] == "working"
    state, why = check.state(SILENT_STEPS)
    assert (state, "hooks step, extend, verify have not fired" in why) == ("broken", True)


@pytest.mark.parametrize("which", [0, 1])
def test_too_many_failures_of_either_guard_are_told(check, guards, which):
    fire(guards[0], *CAPTURE_HOOKS)
    fail(guards[which], "command")
    assert check.state(0) == ("broken", f"{MAX_FAILURES} failures, the last one in command: ValueError: no")
    other = SelfCheck(*guards, [], is_wanted=True)
    other.look_at(finished())
    assert other.broken == check.broken


def test_states_that_do_not_fit_the_tokens_break_it(check, guards):
    fire(guards[0], *CAPTURE_HOOKS)
    check.look_at(finished())
    check.look_at(replace(finished(), states=None, final=None))  # kept by nobody
    assert check.broken == ""
    check.look_at(finished(6))
    assert check.state(0) == ("broken", "6 states for 5 positions, so it is not clear what the hooks see")
    cached = SelfCheck(*guards, [], is_wanted=True)
    cached.look_at(finished(3, first_state=2, final=torch.zeros(3, 4)))
    assert cached.broken == "", "a cached prefix has no states"
    cached.look_at(finished(final=torch.zeros(4, 4)))
    assert cached.broken.startswith("4 states for 5 positions")


def test_what_this_sglang_lacks_comes_first_and_off_is_said_last(guards):
    fail(guards[0], "step")
    lacking = SelfCheck(*guards, ["a.b", "c.d"], is_wanted=False)
    assert lacking.state(0) == ("broken", "this SGLang has no a.b, c.d")
    off = SelfCheck(Guard(), Guard(), [], is_wanted=False)
    assert off.state(0) == ("off", "AURORA_CAPTURE=off")


def test_what_the_launch_line_makes_impossible_is_told_before_any_request(guards):
    known = SelfCheck(*guards, [], is_wanted=True, problem="--tokenizer-worker-num 2: nobody reads them")
    assert known.state(0) == ("broken", "--tokenizer-worker-num 2: nobody reads them")
    off = SelfCheck(*guards, [], is_wanted=False, problem="--tokenizer-worker-num 2: nobody reads them")
    assert off.state(0) == ("off", "AURORA_CAPTURE=off")


def test_of_what_capture_itself_finds_wrong_the_first_is_told(check, guards, caplog):
    fire(guards[0], *CAPTURE_HOOKS)
    check.told("")
    assert check.state(0) == ("working", "")
    check.told("states are missing")
    check.told("so are others")
    assert check.state(0) == ("broken", "states are missing")
    assert caplog.text.count("capture is broken") == 1
