"""One rank as the plugin puts it together: what it does at a scheduler's turn, and what its parts tell each other."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from serving.sglang_backend import config as settings
from serving.sglang_backend import labels
from serving.sglang_backend.assembler import NO_FINAL
from serving.sglang_backend.control import LORA, ControlPolicy
from serving.sglang_backend.guard import MAX_FAILURES
from serving.sglang_backend.metrics import EngineCounts, Reading
from serving.sglang_backend.plugin import Plugin
from serving.sglang_backend.ranks import NOT_YET, Command
from serving.sglang_backend.replica import Replica
from serving.sglang_backend.roll_call import RollCall
from speculators import checkpoint
from speculators.records import DesiredState
from tests.unit.serving.fakes import wait_until
from tests.unit.serving.sglang_backend.fakes import (
    CAPTURE_HOOKS,
    CONFIG,
    FakeDraftModel,
    FakeRunner,
    draft_state,
    prefill_batch,
    request,
    verify_step,
)
from tests.unit.serving.sglang_backend.test_sidecar import TARGET, desired, told

RIDS = [letter * 32 for letter in "abc"]
NODES = 5  # of a verify pass: four drafts and the token before them
LARGEST_GRAPH = 8


class LogitsProcessor(nn.Module):
    """SGLang's, by its name."""


class FakeTarget(nn.Module):
    """A target of one tensor that hands three layers to its draft, as SGLang counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.body.layers_to_capture = [each + 1 for each in CONFIG.aux_layer_ids]
        self.logits_processor = LogitsProcessor()


@pytest.fixture(autouse=True)
def sglang(monkeypatch):
    """The modules of SGLang that a replica reads; its graphs are as large as the test says."""
    found = SimpleNamespace(backend="full", bs=[1, LARGEST_GRAPH])
    graph = SimpleNamespace(cuda_graph_config=SimpleNamespace(decode=found))
    modules = {
        "sglang": {"__version__": "0.5.21"},
        "sglang.srt": {},
        "sglang.srt.layers": {},
        "sglang.srt.layers.logits_processor": {"LogitsProcessor": LogitsProcessor},
        "sglang.srt.runtime_context": {"get_exec": lambda: SimpleNamespace(graph=graph)},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return found


def fake_worker(rank: int, size: int) -> SimpleNamespace:
    """An EAGLEWorkerV2 on a CPU with target and draft loaded."""
    runner = FakeRunner(FakeDraftModel(rank, size))
    runner.model.load_weights(list(draft_state(0).items()))
    runner.device, runner.tp_group = "cpu", SimpleNamespace(cpu_group=None)
    model_config = SimpleNamespace(
        hf_config=SimpleNamespace(to_dict=lambda: TARGET), hidden_size=CONFIG.hidden_size, dtype=torch.float32
    )
    target_runner = SimpleNamespace(model=FakeTarget(), device="cpu")
    return SimpleNamespace(
        server_args=SimpleNamespace(model_path="/no/directory", speculative_draft_model_path="/launched"),
        target_worker=SimpleNamespace(model_runner=target_runner, model_config=model_config),
        draft_worker=SimpleNamespace(draft_runner=runner, hot_token_id=None),
        speculative_num_steps=NODES - 1,
        speculative_num_draft_tokens=NODES,
    )


@pytest.fixture
def made(console, tmp_path):
    """Make a rank: ``made()``, with other variables or another place among the ranks. What has begun is ended."""
    console.desired = DesiredState("demo", 0, 0, "", "", NODES - 1, 0.0, 0.0).to_json()
    interval, found = sys.getswitchinterval(), []

    def make(rank: int = 0, size: int = 1, no_control: str = "", **variables: str) -> Plugin:
        environment = {
            "AURORA_CONSOLE_URL": console.url, "AURORA_TARGET_SLUG": "demo", "AURORA_REPLICA": "r1",
            "AURORA_STATE_DIR": str(tmp_path / "state"), "AURORA_ENGINE_URL": console.url, **variables,
        }  # fmt: skip
        plugin = Plugin()
        plugin.roll = RollCall(rank=rank, size=size)
        plugin.replica = Replica(
            fake_worker(rank, size), settings.load("127.0.0.1", 30000, environment), plugin.roll, plugin.guard,
            plugin.control_guard, [],
        )  # fmt: skip
        policy = None if no_control else ControlPolicy(NODES - 1, guard=plugin.control_guard)
        plugin.replica.take_control(policy, no_control)
        found.append(plugin.replica)
        return plugin

    yield make
    for thread in threading.enumerate():  # what starts the follower, and has it ended with the rest
        if thread.name == "restore":
            thread.join(60)
    for replica in found:
        replica.close()
    sys.setswitchinterval(interval)


class Scheduler:
    """SGLang's, at its turns."""

    chunked_req = None

    def __init__(self) -> None:
        self.waiting_queue: list = []
        self.weight_versions: list[str] = []

    def collect_inflight_reqs(self) -> list:
        return []

    def record_weight_version_change(self, new_version: str) -> None:
        self.weight_versions.append(new_version)


class Together:
    """A group of ranks that all say what this one says, and remembers it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.said: list[str] = []

    def gather(self, line: str) -> tuple[str, ...]:
        self.said.append(line)
        return (line,) * self.size


def trip(guard) -> None:
    for _ in range(MAX_FAILURES):
        guard.run("prefix", lambda: 1 / 0)
    assert guard.is_tripped


def ready(replica, command: Command) -> tuple[str, ...]:
    """A command at every turn, as rank 0 sends it, until this rank is ready; what it answered."""
    lines: list[tuple[str, ...]] = []

    def is_ready() -> bool:
        replica.turn(Scheduler(), [command], [])
        lines.append(replica.swapper.answers.get_nowait().lines)
        return NOT_YET not in lines[-1]

    wait_until(is_ready)
    return lines[-1]


def swap(replica, folder) -> str:
    """Another draft by commands; its digest."""
    sha256 = checkpoint.save(folder, CONFIG, draft_state(1))
    ready(replica, Command("prepare", 1, sha256=sha256, uri=str(folder)))
    assert not any(ready(replica, Command("apply", 2, sha256=sha256, version=2)))
    return sha256


def until(plugin: Plugin, is_true) -> None:
    """Turn SGLang's scheduler until it is so."""
    scheduler = Scheduler()

    def turned() -> bool:
        plugin.before_turn(scheduler, plugin.after_pull([], None) or [])
        return bool(is_true())

    wait_until(turned)


def begun(plugin: Plugin) -> Plugin:
    """Rank 0 at work: its parts run, and nobody waits for a turn."""
    until(plugin, lambda: plugin.replica.engine is not None and plugin.replica.engine.target_sha256)
    return plugin


# -- a turn ------------------------------------------------------------------------------------------------------------


def test_a_rank_that_fails_too_often_carries_out_commands_and_joins_every_gather(made, tmp_path):
    """Else the ranks that still work wait for it for ever."""
    replica = made(rank=1, size=2).replica
    group = replica.swapper.group = Together(2)
    trip(replica.control_guard)
    sha256 = swap(replica, tmp_path / "next")
    assert ready(replica, Command("prove", 3)) == (sha256, sha256)
    ready(replica, Command("policy", 4, control_share=0.25, is_speculating=False))
    assert (replica.policy.control_share, replica.policy.is_speculating) == (0.25, False)
    assert [line for line in group.said if line != NOT_YET] == ["", sha256, ""]


def test_a_rank_that_fails_too_often_says_so_to_the_others_once(made, monkeypatch):
    replica = made(rank=1, size=2).replica
    said: list[str] = []
    monkeypatch.setattr(replica.roll, "say", said.append)
    replica.turn(Scheduler(), [], [])
    assert said == []
    trip(replica.control_guard)
    for _ in range(3):
        replica.turn(Scheduler(), [], [])
    assert said == [f"{MAX_FAILURES} failures, the last one in prefix: ZeroDivisionError: division by zero"]


@pytest.mark.parametrize("is_tripped", [False, True])
@pytest.mark.parametrize("setting", ["on", "off"])
def test_requests_are_named_after_the_draft_unless_prefixes_are_shared(made, tmp_path, setting, is_tripped):
    replica = made(AURORA_PREFIX_PER_DRAFT=setting).replica
    if is_tripped:
        trip(replica.control_guard)
    before, after = SimpleNamespace(extra_key=None), SimpleNamespace(extra_key=None)
    replica.turn(Scheduler(), [], [before])
    sha256 = swap(replica, tmp_path / "next")
    replica.turn(Scheduler(), [], [after])
    assert (before.extra_key, after.extra_key) == (None, f"draft={sha256[:16]}" if setting == "on" else None)


def test_what_the_console_wants_is_swapped_in_at_a_turn_and_proved(made, console, tmp_path):
    sha256 = checkpoint.save(tmp_path / "next", CONFIG, draft_state(1))
    plugin = begun(made())
    console.desired = desired(tmp_path)
    until(plugin, lambda: told(console, "state", "version", "sha256") == ("serving", 2, sha256))
    assert plugin.replica.scheduler.weight_versions == ["2"]
    assert (plugin.guard.num_failures, plugin.control_guard.num_failures) == (0, 0)


def test_a_state_directory_that_cannot_be_is_named_and_aurora_is_off(made, tmp_path, caplog):
    (tmp_path / "file").touch()
    plugin = made(AURORA_STATE_DIR=str(tmp_path / "file" / "below"))
    plugin.before_turn(Scheduler(), [])
    assert plugin.replica is None
    assert plugin.problem.startswith(f"AURORA_STATE_DIR='{tmp_path / 'file' / 'below'}': must be a directory")
    assert "Traceback" not in caplog.text


def test_why_there_is_no_control_reaches_the_console(made, console):
    plugin = begun(made(no_control=LORA))
    console.desired = DesiredState("demo", 0, 0, "", "", NODES - 1, 0.02, 0.0).to_json()
    until(plugin, lambda: told(console, "policy_detail") == (f"control share 0.02: {LORA}",))
    assert plugin.replica._no_policy() == LORA


# -- what is captured --------------------------------------------------------------------------------------------------


def pass_through(plugin: Plugin, rid: str, *, with_final: bool = True, is_warm_up: bool = False) -> None:
    """A request of three tokens and one verify step through every hook, until rank 0 has booked it."""
    key = labels.with_headers(None, {})
    replica, one = plugin.replica, request(rid, [5, 6, 7], routing_key=labels.of_warm_up(key) if is_warm_up else key)
    num_finished = replica.assembler.num_finished

    def logits(num_rows: int) -> None:
        if with_final:
            plugin.before_logits(replica.logits_processor, None, torch.ones(num_rows, CONFIG.hidden_size))

    width = 3 * CONFIG.target_hidden_size
    logits(3)
    plugin.before_prefill_extend(None, prefill_batch([one], [0], [3]), torch.ones(3, width))
    batch, batch.spec_info, result = _step(one, width)

    def forward(worker, batch) -> None:
        logits(NODES)
        plugin.after_verify(result, worker, batch)
        plugin.around_decode_extend(lambda: None)

    plugin.around_forward(forward, None, batch)
    vars(one).update(vars(request(rid, [5, 6, 7], [10, 11, 12], reason="length")))
    plugin.before_stream(None, [one])
    until(plugin, lambda: replica.assembler.num_finished > num_finished)


def _step(one, width):
    batch, info, result = verify_step([one], [3], [[10, 11, 98, 97, 96]], [2], width)
    batch.forward_mode = SimpleNamespace(is_idle=lambda: False, is_extend=lambda: False)
    batch.is_extend_in_batch = False
    return batch, info, result


def test_every_hook_that_capture_needs_counts_as_it_fires(made, console):
    plugin = begun(made(AURORA_QUEUE_MIB="8"))
    recorder = plugin.replica.parts.recorder
    assert recorder.max_waiting_bytes == plugin.replica.assembler.queue.max_bytes == 8 << 20
    assert recorder.segments.limits.max_segment_bytes == 2 << 20
    assert plugin.guard.not_fired() == list(CAPTURE_HOOKS)
    pass_through(plugin, RIDS[0])
    assert plugin.guard.not_fired() == []
    until(plugin, lambda: told(console, "num_traces") == (1,))
    assert told(console, "capture_state", "capture_detail") == ("working", "")


def test_sglangs_own_warm_up_proves_the_hooks_and_reaches_no_count_and_no_trace(made, console):
    plugin = begun(made())
    plugin.replica.capture.on_seen = lambda: None  # as where the HTTP process has no hook
    pass_through(plugin, RIDS[0], is_warm_up=True)
    until(plugin, lambda: told(console, "capture_state") == ("broken",))
    assert "hooks request have not fired" in told(console, "capture_detail")[0]
    plugin = begun(made(AURORA_REPLICA="r2"))
    pass_through(plugin, RIDS[1], is_warm_up=True)
    assert (plugin.guard.not_fired(), plugin.replica._beside().capture_detail) == ([], "")
    plugin.replica.close()
    recorder = plugin.replica.parts.recorder
    assert (recorder.num_traces, recorder.num_dropped_traces, recorder.totals) == (0, 0, {})


def test_a_report_has_our_counts_of_when_the_engines_were_read(made, console):
    plugin = begun(made())
    pass_through(plugin, RIDS[0])
    until(plugin, lambda: told(console, "num_verify_steps", "num_accept_tokens") == (1, 2))  # there are no others yet
    plugin.replica.metrics.latest = Reading(EngineCounts(1, 2), 1, 2)
    pass_through(plugin, RIDS[1])
    until(plugin, lambda: told(console, "engine_num_verify_steps") == (1,))
    assert plugin.replica.assembler.num_steps == 2
    assert told(console, "num_verify_steps", "num_accept_tokens", "engine_num_accept_tokens") == (1, 2, 2)


def test_where_capture_is_off_a_request_leaves_no_states_and_no_trace(made, console, tmp_path):
    plugin = begun(made(AURORA_CAPTURE="off"))
    pass_through(plugin, RIDS[0])
    assert plugin.replica.assembler.queue._put_bytes == 0
    plugin.replica.close()
    assert (plugin.replica.parts.recorder.num_traces, plugin.replica.assembler.num_dropped) == (0, 0)
    assert list((tmp_path / "state" / "segments" / "demo").glob("*")) == []
    assert plugin.replica._beside().capture_state == "off"


def test_what_capture_finds_wrong_reaches_the_console_and_nothing_is_learnt_any_more(made, console):
    plugin = begun(made())
    pass_through(plugin, RIDS[0])
    pass_through(plugin, RIDS[1], with_final=False)
    until(plugin, lambda: told(console, "capture_state", "capture_detail") == ("broken", NO_FINAL))
    pass_through(plugin, RIDS[2])
    plugin.replica.close()
    assert plugin.replica.parts.recorder.num_traces == 1


def test_states_of_other_layers_than_the_desired_draft_reads_are_not_kept_while_that_holds(made, console, tmp_path):
    """A server that began with another draft serves it on; what it captures would teach the desired one nothing."""
    shifted = replace(CONFIG, aux_layer_ids=(0, 2, 4))
    sha256 = checkpoint.save(tmp_path / "next", shifted, draft_state(1))
    plugin = begun(made())
    console.desired = desired(tmp_path) | {"sha256": sha256}
    until(plugin, lambda: told(console, "state", "capture_state") == ("swap_failed", "broken"))
    [why] = told(console, "capture_detail")
    assert "it reads layers (0, 2, 4), this server captures (1, 2, 4)" in why
    pass_through(plugin, RIDS[0])
    assert told(console, "capture_state", "capture_detail") == ("broken", why)
    sha256 = checkpoint.save(tmp_path / "other", CONFIG, draft_state(2))
    console.desired |= {"generation": 2, "version": 3, "uri": str(tmp_path / "other"), "sha256": sha256}
    until(plugin, lambda: told(console, "state", "version", "capture_state") == ("serving", 3, "working"))
    pass_through(plugin, RIDS[1])
    plugin.replica.close()
    assert plugin.replica.parts.recorder.num_traces == 1


def test_graphs_copy_their_final_states_into_a_buffer_for_the_largest(made, sglang):
    rows, num_written = made().replica.final.replayed(LARGEST_GRAPH * NODES)
    assert (rows.shape, int(num_written)) == ((LARGEST_GRAPH * NODES, CONFIG.hidden_size), 0)
    for plugin in (made(rank=1, size=2), made(AURORA_CAPTURE="off")):
        assert plugin.replica.final.replayed(1) is None
    sglang.backend = "disabled"
    assert made().replica.final.replayed(1) is None
