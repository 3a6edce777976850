"""One scheduler process of an SGLang server, as Aurora sees it: every rank swaps, rank 0 also records and reports."""

from __future__ import annotations

import atexit
import json
import logging
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from serving.engine.api import FinishedRequest
from serving.engine.pins import Pins
from serving.engine.versions import Served, Versions
from serving.sglang_backend.assembler import Assembler
from serving.sglang_backend.capture import Capture, EventQueue, rids_of
from serving.sglang_backend.config import PLUGIN_VERSION, PluginConfig, check_state_dir, why_unlabelled
from serving.sglang_backend.control import ControlPolicy
from serving.sglang_backend.copies import stream_of
from serving.sglang_backend.engine import (
    NO_CONTROL,
    PINS_DETAIL,
    PINS_OBEYED,
    PROBE_STEPS,
    SglangEngine,
    Weights,
    launched,
)
from serving.sglang_backend.final_states import FinalStates, room_for_graphs
from serving.sglang_backend.guard import Guard
from serving.sglang_backend.metrics import MetricsReader
from serving.sglang_backend.prefixes import keep_apart
from serving.sglang_backend.ranks import Command, CpuGroup, RankSwapper
from serving.sglang_backend.roll_call import RollCall
from serving.sglang_backend.self_check import SelfCheck
from serving.sglang_backend.weights import DraftMemory, TargetWatch
from serving.trace.identity import Beside
from serving.trace.parts import running

log = logging.getLogger(__name__)

SWITCH_INTERVAL_SECONDS = 0.0005  # Python's 5 ms would make the scheduler wait whole steps for our threads
PATIENCE_SECONDS = 1.0  # with what served before a restart, until reports begin beside it
SWEEP_SECONDS = 10.0  # between two looks at which requests SGLang still has


class Replica:
    """Built when SGLang has built target and draft, before it captures graphs; ``worker`` is its EAGLEWorkerV2."""

    def __init__(
        self,
        worker: Any,
        config: PluginConfig,
        roll: RollCall,
        guard: Guard,
        control_guard: Guard,
        missing: list[str],
    ) -> None:
        self.worker = worker
        self.config = config
        self.policy: ControlPolicy | None = None
        self.no_control = ""  # why there is no policy
        self.roll = roll
        self.control_guard = control_guard
        self.guard = guard
        problem = why_unlabelled(worker.server_args)
        self.check = SelfCheck(guard, control_guard, missing, is_wanted=config.is_capture_wanted, problem=problem)
        self.target = worker.target_worker.model_runner.model
        runner = worker.draft_worker.draft_runner
        self.memory = DraftMemory(runner, worker.draft_worker)
        self.device = torch.device(runner.device)
        self.logits_processor = _logits_processor(self.target)
        self.final = FinalStates()
        group = CpuGroup(runner.tp_group.cpu_group, self.memory.size)
        self.swapper = RankSwapper(
            self.memory, group, self._applied, self._policy, lambda: stream_of(self.scheduler), self._no_policy
        )
        self.capture: Capture | None = None
        self.engine: SglangEngine | None = None
        self.scheduler: Any = None  # set by every turn's hook
        self.draft_sha256 = ""  # of the draft that a swap brought; "" = the one of the launch
        self._is_given_up = False  # the other ranks have been told that this one fails too often
        self._swept_at = 0.0  # monotonic
        self._stack = ExitStack()

    def take_control(self, policy: ControlPolicy | None, why_none: str = "") -> None:
        """How this server decodes without drafts, or why it cannot; before SGLang captures its graphs."""
        self.policy, self.no_control = policy, why_none
        self.final = FinalStates(self._room_for_graphs())

    def begin(self) -> None:
        """At the scheduler's first turn, when everything is loaded: rank 0 starts to record and to report."""
        try:
            self.swapper.target = TargetWatch(self.target)
        except Exception:  # without it this rank can still swap, and the others count on that
            log.exception("rank %d cannot read the target's weights: its part is not compared", self.memory.rank)
        self.roll.say()
        if self.memory.rank == 0:
            self._lead()

    def close(self) -> None:
        """End what ``begin`` has started."""
        self._stack.close()

    # -- on the scheduler's thread ----------------------------------------------------------------------------------

    def turn(self, scheduler: Any, commands: list[Command], requests: list[Any]) -> None:
        """Between two steps: carry out our commands, and name the draft in the requests that SGLang is about to take.

        Both whatever has failed before: the ranks wait for each other's lines, and must find the same cached prefixes.
        """
        self.scheduler = scheduler
        for command in commands:
            self.control_guard.run("command", lambda command=command: self.swapper.handle(command), is_owed=True)  # type: ignore[misc]
        if self.config.is_prefix_per_draft and self.draft_sha256:
            self.control_guard.run("prefix", lambda: keep_apart(requests, self.draft_sha256), is_owed=True)
        if self.control_guard.is_tripped and not self._is_given_up:
            self._is_given_up = True
            self.control_guard.run("roll", lambda: self.roll.say(self.control_guard.problem), is_owed=True)

    def sweep(self, scheduler: Any) -> None:
        """At every turn: now and then forget the requests that SGLang has dropped without a word."""
        now = time.monotonic()
        if self.capture is not None and now - self._swept_at > SWEEP_SECONDS:
            self._swept_at = now
            self.capture.swept(rids_of(scheduler))

    def outgoing(self) -> list[Command]:
        """What rank 0 has to say to all ranks."""
        found: list[Command] = []
        while self.engine is not None and self.engine.outbox:
            found.append(self.engine.outbox.popleft())
        return found

    def _applied(self, command: Command) -> None:
        self.draft_sha256 = command.sha256
        record = getattr(self.scheduler, "record_weight_version_change", None)
        if record is not None:
            record(new_version=str(command.version))
        if self.engine is not None and self.capture is not None:
            self.capture.queue.put(self.engine.applied(command))

    def _policy(self, command: Command) -> None:
        if self.policy is not None:
            self.policy.control_share = command.control_share
            self.policy.is_speculating = command.is_speculating

    def _no_policy(self) -> str:
        """Why this rank cannot decode without drafts."""
        return "" if self.policy is not None and self.policy.is_available else self.no_control or NO_CONTROL

    # -- rank 0 -----------------------------------------------------------------------------------------------------

    def _room_for_graphs(self) -> torch.Tensor | None:
        """Before SGLang captures; without it the states of replays are left out, and the console hears of it."""
        if self.memory.rank != 0 or not self.config.is_capture_wanted:
            return None
        try:
            return room_for_graphs(self.worker, self.policy.candidate_steps if self.policy else [])
        except Exception:
            log.exception("no buffer for the final states of CUDA graphs")
            return None

    def _lead(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        config, arguments = self.config, self.worker.server_args
        check_state_dir(config.state_dir)
        first = launched(self.memory, str(arguments.speculative_draft_model_path))
        versions: Versions[Weights] = Versions(PROBE_STEPS, self.worker.speculative_num_steps)
        versions.live = Served(0, first)  # a version without a number, until the console names one
        queue = EventQueue(config.max_queue_bytes)
        pins = Pins(PINS_OBEYED, PINS_DETAIL)
        self.capture = Capture(
            queue, self.device, self.final, keeps_states=config.is_capture_wanted, pins=pins,
            on_seen=lambda: self.guard.saw("request"),
        )  # fmt: skip
        self.assembler = Assembler(
            queue, versions, self._finished, self.check.look_at, self._count, self._collapsed,
            on_broken=self.check.told,
        )  # fmt: skip
        aux_layer_ids = captured_layers(self.target)
        self.engine = SglangEngine(
            self.swapper, self.roll, versions, self.assembler, self.policy, aux_layer_ids, pins,
            num_drafts=max(self.policy.candidate_steps) if self.policy else self.worker.speculative_num_steps,
            no_control=self.no_control or NO_CONTROL,
        )  # fmt: skip
        self.metrics = MetricsReader(config.engine_url, lambda: (self.assembler.num_steps, self.assembler.num_accepted))
        target_config = _target_config(arguments.model_path, self.worker.target_worker.model_config.hf_config)
        recording = config.recording(engine_name(), str(arguments.model_path), first.uri)
        parts = running(recording, aux_layer_ids, self.engine, target_config, self._beside)
        self.parts = self._stack.enter_context(parts)
        self.assembler.start()
        self._stack.callback(self.assembler.stop)
        self.metrics.start()
        self._stack.callback(self.metrics.stop)
        threading.Thread(target=self._follow, name="restore", daemon=True).start()
        atexit.register(self._stack.close)
        log.info("Aurora: replica %s of %s reports to %s", config.replica, config.slug, config.console_url)

    def _follow(self) -> None:
        """What served well before a restart, then what the console wants; a swap needs the scheduler's turns."""
        follower = self.parts.follower
        assert follower is not None
        try:
            follower.restore(PATIENCE_SECONDS)
        except Exception:
            log.exception("what served before the restart could not be restored; the console will be asked")
        follower.start()
        self._stack.callback(follower.stop)

    def _finished(self, finished: FinishedRequest, is_trace: bool) -> None:
        self.parts.recorder.put(finished, is_trace=is_trace and self.check.keeps_traces)
        self.check.look_at(finished)

    def _count(self, domain: str, part: Any) -> None:
        self.parts.recorder.count(domain, part)

    def _collapsed(self, detail: str) -> None:
        if self.engine is not None:
            self.engine.collapsed(detail)

    def _beside(self) -> Beside:
        assert self.engine is not None and self.capture is not None
        counts = self.metrics.latest
        state, detail = self.check.state(counts.engine.num_verify_steps)
        return Beside(
            num_dropped_traces=self.assembler.num_dropped,
            capture_state=state,
            capture_detail=detail,
            queue_bytes=max(0, self.capture.queue.num_bytes),
            num_verify_steps=counts.num_verify_steps,
            num_accept_tokens=counts.num_accept_tokens,
            engine_num_verify_steps=counts.engine.num_verify_steps,
            engine_num_accept_tokens=counts.engine.num_accept_tokens,
            target_sha256=self.engine.target_sha256,
            ranks=self.engine.ranks if self.memory.size > 1 else (),
            policy_detail=self.engine.policy_detail,
        )


def captured_layers(target: Any) -> tuple[int, ...]:
    """0-based layer outputs that the target hands to its draft; SGLang keeps each one higher. Raises LookupError."""
    for module in target.modules():
        layers = getattr(module, "layers_to_capture", None)
        if layers:
            return tuple(int(layer) - 1 for layer in layers)
    raise LookupError("the target captures no layers: is this an EAGLE-3 server?")


def _logits_processor(target: Any) -> Any:
    from sglang.srt.layers.logits_processor import LogitsProcessor

    for module in target.modules():
        if isinstance(module, LogitsProcessor):
            return module
    raise LookupError("the target has no logits processor")


def _target_config(model_path: str, hf_config: Any) -> dict[str, Any]:
    file = Path(model_path) / "config.json"
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    return dict(hf_config.to_dict())


def engine_name() -> str:
    """What the console shows of this engine."""
    import sglang

    return f"sglang {sglang.__version__}, aurora {PLUGIN_VERSION}"
