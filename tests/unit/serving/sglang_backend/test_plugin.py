"""Registration with SGLang's hook registry (stood in for by a module of the same name); hooks that must not raise."""

from __future__ import annotations

import sys
import types
from enum import Enum

import pytest
import torch

from serving.sglang_backend import labels
from serving.sglang_backend import plugin as plugin_module
from serving.sglang_backend.guard import MAX_FAILURES
from serving.sglang_backend.plugin import Plugin
from serving.sglang_backend.ranks import Command
from serving.sglang_backend.roll_call import RollCall
from speculators.records import ObservedState
from tests.unit.serving.fakes import wait_until


class HookType(Enum):
    BEFORE = 1
    AFTER = 2
    AROUND = 3


@pytest.fixture
def registered(monkeypatch):
    """A registry that remembers, in an SGLang in which one hook target is missing."""
    found = {}

    class HookRegistry:
        @staticmethod
        def register(target, hook, kind):
            path, _, name = target.rpartition(".")
            found[path.rpartition(".")[2] if name == "__init__" else name] = (hook, kind.name)

    def resolve(target):
        if target.endswith("stream_output"):
            raise AttributeError(target)
        return object()

    registry = types.ModuleType("sglang.srt.plugins.hook_registry")
    registry.HookRegistry, registry.HookType = HookRegistry, HookType
    for name in ("sglang", "sglang.srt", "sglang.srt.plugins"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, registry.__name__, registry)
    monkeypatch.setattr(plugin_module.pkgutil, "resolve_name", resolve)
    return found


def test_what_exists_is_hooked_and_what_is_missing_is_remembered(registered):
    one = Plugin()
    one.register()
    assert len(registered) == 11
    assert [each.rpartition(".")[2] for each in one.missing] == ["stream_output"]


def test_a_call_that_a_hook_does_not_expect_is_counted_and_changes_nothing(registered):
    one = Plugin()
    one.register()
    hook, kind = registered["process_input_requests"]
    assert kind == "BEFORE"
    assert hook("scheduler", ["a"], surprise=1) is None
    assert one.control_guard.num_failures == 1
    assert registered["verify"][0]("result") is None
    assert one.control_guard.num_failures == 2


def test_without_its_variables_nothing_is_registered(registered, monkeypatch):
    monkeypatch.delenv("AURORA_CONSOLE_URL", raising=False)
    plugin_module.activate()
    assert registered == {}
    monkeypatch.setenv("AURORA_CONSOLE_URL", "http://127.0.0.1:1")
    plugin_module.activate()
    assert len(registered) == 11


def test_a_wrong_setting_leaves_the_server_without_aurora(monkeypatch, caplog):
    monkeypatch.setenv("AURORA_CONSOLE_URL", "nonsense")
    one = Plugin()
    worker = types.SimpleNamespace(server_args=types.SimpleNamespace(host="127.0.0.1", port=1))
    one.after_init(None, worker)
    assert one.replica is None
    assert "AURORA_" in caplog.text


@pytest.mark.parametrize("option", ["dp_size", "pp_size"])
def test_several_groups_in_one_server_are_not_taken_for_one_replica(monkeypatch, caplog, option):
    """Each would serve what it likes, and the first one's proof would be shown for all."""
    one = Plugin()
    arguments = types.SimpleNamespace(**{"host": "127.0.0.1", "port": 1, "dp_size": 1, "pp_size": 1, option: 2})
    one.after_init(None, types.SimpleNamespace(server_args=arguments))
    assert one.replica is None
    assert f"--{option.replace('_', '-')} 2 cannot be served by one replica" in caplog.text


@pytest.fixture
def scheduler(console, tmp_path, monkeypatch):
    """Of a server whose environment names this console, and what the console has heard of it."""
    for name, value in {
        "AURORA_CONSOLE_URL": console.url, "AURORA_TARGET_SLUG": "demo", "AURORA_REPLICA": "r1",
        "AURORA_STATE_DIR": str(tmp_path),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(plugin_module, "engine_name", lambda: "sglang 0.5.21")
    arguments = types.SimpleNamespace(
        host="127.0.0.1", port=30000, dp_size=1, pp_size=1, enable_lora=None, lora_paths=None
    )
    return types.SimpleNamespace(server_args=arguments)


def heard(console):
    wait_until(lambda: console.of("/api/v1/ingest/observed"))
    return console.of("/api/v1/ingest/observed")[-1]


WORKER, TURN = plugin_module.EAGLE + "EAGLEWorkerV2.__init__", plugin_module.SCHEDULER + plugin_module.TURN


@pytest.mark.parametrize(
    ("missing", "is_built", "said"),
    [
        ([WORKER], False, f"this SGLang has no {WORKER}"),
        ([TURN], True, f"this SGLang has no {TURN}"),
        ([], False, "no EAGLE-3 draft worker was built"),
    ],
)
def test_a_server_in_which_aurora_cannot_be_is_known_to_the_console(console, scheduler, missing, is_built, said):
    one = Plugin()
    one.missing = missing
    one.replica = FakeReplica() if is_built else None
    one.after_scheduler(None, scheduler)
    told = heard(console)
    assert (told["replica"], told["target"], told["capture_state"]) == ("r1", "demo", "broken")
    assert told["capture_detail"] == f"Aurora is off in this server: {said}"
    assert ObservedState.from_json(told).version == 0
    assert one.replica is None
    one.off.stop()


def test_why_a_replica_could_not_be_built_is_told_once_the_scheduler_is(console, scheduler):
    scheduler.server_args.dp_size = 2
    one = Plugin()
    one.after_init(None, types.SimpleNamespace(server_args=scheduler.server_args))
    assert one.off is None
    one.after_scheduler(None, scheduler)
    assert "--dp-size 2 cannot be served by one replica" in heard(console)["capture_detail"]
    one.off.stop()


def test_a_wrong_value_of_what_is_not_needed_to_tell_is_told(console, scheduler, monkeypatch, caplog):
    monkeypatch.setenv("AURORA_QUEUE_MIB", "²")
    one = Plugin()
    one.after_init(None, types.SimpleNamespace(server_args=scheduler.server_args))
    one.after_scheduler(None, scheduler)
    assert "AURORA_QUEUE_MIB='²'" in heard(console)["capture_detail"]
    assert "Traceback" not in caplog.text
    one.off.stop()


def test_another_rank_leaves_the_telling_to_the_first(console, scheduler):
    one = Plugin()
    one.roll = RollCall(rank=1, size=2)
    one.after_scheduler(None, scheduler)
    assert (one.problem, one.off) == ("no EAGLE-3 draft worker was built", None)


def test_a_server_that_serves_with_aurora_tells_nothing_of_the_kind(console, scheduler):
    one = Plugin()
    one.replica = FakeReplica()
    one.after_scheduler(None, scheduler)
    assert (one.problem, one.off) == ("", None)


class FakeReplica:
    """Has two commands to send, and takes commands out of what it is given."""

    capture = None

    def __init__(self) -> None:
        self.waiting = [Command("policy", 1), Command("policy", 2)]

    def begin(self) -> None: ...

    def close(self) -> None: ...

    def sweep(self, scheduler) -> None: ...

    def outgoing(self):
        found, self.waiting = self.waiting, []
        return found

    def turn(self, scheduler, commands, requests):
        self.carried_out = commands


def test_commands_travel_with_the_requests_and_never_reach_sglangs_dispatcher():
    one = Plugin()
    assert one.after_pull([1], None) is None
    one.replica = FakeReplica()
    assert one.after_pull(None, None) is None  # another rank: it waits for the broadcast
    pulled = one.after_pull([1], None)
    assert pulled[0] == 1 and len(pulled) == 3
    assert one.after_pull([2], None) is None
    (scheduler, left), named = one.before_turn("scheduler", pulled)
    assert (scheduler, left, named) == ("scheduler", [1], {})
    assert [command.ticket for command in one.replica.carried_out] == [1, 2]


def test_on_a_rank_without_a_replica_commands_reach_sglang_no_more_than_elsewhere():
    one = Plugin()
    assert one.before_turn("scheduler", [1]) is None
    assert one.before_turn("scheduler", [Command("apply", 1), 2]) == (("scheduler", [2]), {})


def test_a_rank_that_cannot_begin_tells_the_others_why():
    one = Plugin()

    class Unable(FakeReplica):
        def begin(self):
            raise RuntimeError("no room")

        def close(self):
            self.is_closed = True

    replica = one.replica = Unable()
    assert one.before_turn("scheduler", [Command("apply", 1), 2]) == (("scheduler", [2]), {})
    assert one.replica is None and replica.is_closed
    assert one.roll.lines() == ("RuntimeError: no room",)


def test_a_hook_that_always_fails_is_given_up_but_commands_are_taken_out_for_ever(registered, caplog):
    one = Plugin()
    one.register()
    for _ in range(3 * MAX_FAILURES):
        registered["verify"][0]("result")
    assert caplog.text.count("Traceback") == MAX_FAILURES == one.control_guard.num_failures
    hook, _ = registered["process_input_requests"]
    assert hook("scheduler", [Command("apply", 1)]) == (("scheduler", []), {})


class BuiltReplica(FakeReplica):
    """What a plugin builds, and how it is told to decode without drafts."""

    def __init__(self, *given) -> None:
        self.control = None

    def take_control(self, policy, why_none="") -> None:
        self.control = (policy, why_none)


@pytest.fixture
def why_not(monkeypatch):
    """What SGLang objects to adaptive speculation; nothing unless a test appends it."""
    found, module = [], types.ModuleType("sglang.srt.speculative.adaptive_spec_params")
    module.adaptive_unsupported_reason = lambda arguments: found[0] if found else None
    for name in ("sglang", "sglang.srt", "sglang.srt.speculative"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return found


@pytest.fixture
def built(scheduler, why_not, monkeypatch):
    """A plugin, its worker, and the workers that the control was installed on."""
    installed = []
    monkeypatch.setattr(plugin_module, "Replica", BuiltReplica)
    monkeypatch.setattr(plugin_module.control, "install", lambda worker, guard: installed.append(worker) or "policy")
    return Plugin(), types.SimpleNamespace(server_args=scheduler.server_args), installed


def test_the_control_is_installed_once_aurora_is_on(built):
    one, worker, installed = built
    one.after_init(None, worker)
    assert (one.replica.control, installed) == (("policy", ""), [worker])


@pytest.mark.parametrize("more", [{"enable_lora": True}, {"lora_paths": ["an/adapter"]}])
def test_a_server_with_adapters_has_no_control(built, more):
    """SGLang's scheduler would end at its first step, with or without a request for one of them."""
    one, worker, installed = built
    vars(worker.server_args).update(more)
    one.after_init(None, worker)
    assert (one.replica.control, installed) == ((None, plugin_module.control.LORA), [])


def test_a_server_that_sglang_itself_would_not_switch_has_no_control(built, why_not):
    one, worker, installed = built
    why_not.append("a tree")
    one.after_init(None, worker)
    assert (one.replica.control, installed) == ((None, "a tree"), [])


def test_where_aurora_is_off_nothing_of_it_is_installed_and_the_other_ranks_hear_why(built, monkeypatch):
    """All ranks capture the same graphs, or SGLang waits for one of them for ever."""
    one, worker, installed = built
    monkeypatch.setenv("AURORA_TARGET_SLUG", "Wrong!")
    store = torch.distributed.HashStore()
    monkeypatch.setattr(plugin_module.roll_call, "of_this_process", lambda: RollCall(store, 1, 2))
    one.after_init(None, worker)
    assert one.replica is None and installed == []
    assert "AURORA_TARGET_SLUG" in one.roll.lines()[1]
    monkeypatch.setenv("AURORA_TARGET_SLUG", "demo")
    monkeypatch.setattr(plugin_module.roll_call, "of_this_process", lambda: RollCall(store, 0, 2))
    other = Plugin()
    other.after_init(None, worker)
    assert (other.replica.control, installed) == ((None, plugin_module.control.APART), [])


@pytest.mark.parametrize("given", [("worker",), ("worker", object())])
def test_the_forward_pass_runs_whatever_the_batch_looks_like(given):
    one = Plugin()
    one.replica = types.SimpleNamespace(capture=types.SimpleNamespace(mark=lambda: 1 / 0))
    assert one.around_forward(lambda *given: "result", *given) == "result"
    assert one.around_decode_extend(lambda *given: "result", *given) == "result"
    assert one.guard.num_failures == 3


def test_the_forward_pass_runs_whatever_capture_does():
    class Broken:
        def step_begins(self):
            raise RuntimeError("no")

        step_ends = step_begins

    one = Plugin()
    one.replica = types.SimpleNamespace(capture=Broken())
    mode = types.SimpleNamespace(is_extend=lambda: False)
    batch = types.SimpleNamespace(forward_mode=mode, is_extend_in_batch=False)
    assert one.around_forward(lambda *given: "result", "worker", batch) == "result"
    assert one.guard.num_failures == 2


class FakeRequest:
    """What FastAPI hands over."""

    def __init__(self, **headers: str) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def manager(status: str):
    """SGLang's tokenizer manager, with the status that its server is in."""
    return types.SimpleNamespace(server_status=types.SimpleNamespace(name=status))


def test_what_comes_before_the_server_is_ready_is_its_own_warm_up():
    for status, is_traffic in (("Starting", False), ("Up", True), ("UnHealthy", True)):
        call = types.SimpleNamespace(routing_key=None)
        Plugin().before_generate(manager(status), call, FakeRequest())
        assert labels.was_seen(call.routing_key)
        assert labels.label_of(call.routing_key, None) == labels.Label("default", True, is_traffic)


def http_server_of(monkeypatch, tokenizer_manager):
    """SGLang's HTTP server is in this process, with this manager, or with none before it is launched."""
    module = types.ModuleType("sglang.srt.entrypoints.http_server")
    state = types.SimpleNamespace(tokenizer_manager=tokenizer_manager)
    module._global_state = state if tokenizer_manager is not None else None
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_what_sglangs_own_warm_ups_call_before_the_server_is_ready_is_nobodys_traffic(monkeypatch):
    """--warmups voice_chat: hundreds of prompts of random tokens, by calls without a request."""
    for status, is_traffic in (("Starting", False), ("Up", True)):
        http_server_of(monkeypatch, ours := manager(status))
        call = types.SimpleNamespace(routing_key=None)
        Plugin().before_generate(ours, call)
        assert labels.was_seen(call.routing_key)
        assert labels.label_of(call.routing_key, None).is_traffic == is_traffic


@pytest.mark.parametrize("other", [None, "another manager"])
def test_an_engine_without_an_http_server_has_traffic_though_nobody_ever_says_that_it_is_ready(monkeypatch, other):
    http_server_of(monkeypatch, other)
    call = types.SimpleNamespace(routing_key=None)
    Plugin().before_generate(manager("Starting"), call)
    assert labels.label_of(call.routing_key, None).is_traffic


@pytest.mark.parametrize("key", [None, "tenant"])
def test_every_part_of_a_request_says_what_its_headers_said(key):
    """GenerateReqInput's parts, of a list of prompts or of n > 1, are built without the routing key."""
    one, whole = Plugin(), types.SimpleNamespace(routing_key=key)
    one.before_generate(manager("Up"), whole, FakeRequest(x_aurora_domain="sql", x_aurora_no_train="1"))
    part = types.SimpleNamespace(routing_key=None)
    assert one.after_item(part, whole, 0) is None
    assert labels.label_of(part.routing_key, None) == labels.Label("sql", is_trace=False)
    assert labels.was_seen(part.routing_key) and part.routing_key == whole.routing_key
    own = types.SimpleNamespace(routing_key="own")
    one.after_item(own, whole, 0)
    assert own.routing_key == "own"


def test_a_call_without_headers_says_that_the_hook_was_there_and_nothing_else():
    call = types.SimpleNamespace(routing_key=None)
    Plugin().before_generate(None, call)
    assert labels.was_seen(call.routing_key)
    assert labels.label_of(call.routing_key, None) == labels.Label("default", is_trace=False)
