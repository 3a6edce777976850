"""The plugin that SGLang loads (entry point group ``sglang.srt.plugins``): registers the hooks, checks that they exist.

Called in SGLang's main, scheduler and detokenizer processes; which hooks ever fire tells them apart. Hook targets are
those of SGLang 0.5.21. A missing one is reported to the console, an exception inside one is counted: SGLang serves on.
"""

from __future__ import annotations

import logging
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

from serving.sglang_backend import config as settings
from serving.sglang_backend import control, labels, off, roll_call
from serving.sglang_backend.capture import Capture
from serving.sglang_backend.guard import Guard
from serving.sglang_backend.ranks import Command
from serving.sglang_backend.replica import Replica, engine_name

log = logging.getLogger(__name__)

EAGLE = "sglang.srt.speculative.eagle_worker_v2."
SCHEDULER = "sglang.srt.managers.scheduler.Scheduler."
TURN = "process_input_requests"
COMPONENTS = "sglang.srt.managers.scheduler_components."
HTTP = "sglang.srt.managers.tokenizer_manager.TokenizerManager."


class Plugin:
    """The hooks of one process; ``replica`` exists once its draft worker has been built."""

    def __init__(self) -> None:
        self.guard = Guard()  # of capture: it gives up after too many failures
        self.control_guard = Guard()  # of the rest
        self.replica: Replica | None = None
        self.missing: list[str] = []
        self.roll = roll_call.RollCall()
        self.has_begun = False
        self.problem = ""  # why Aurora is off in this process
        self.arguments: Any = None  # of the server; None before its scheduler is built
        self.off: off.OffReporter | None = None

    def register(self) -> None:
        """Hook what exists; what does not is remembered."""
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        for target, hook, kind in self._hooks():
            try:
                pkgutil.resolve_name(target)
            except (ImportError, AttributeError):
                self.missing.append(target)
                log.error("this SGLang has no %s", target)
                continue
            HookRegistry.register(target, hook if kind == "AROUND" else self._safely(hook), HookType[kind])

    def _safely(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """Whatever happens in a hook, even a call that it does not expect, SGLang goes on as if it were not there."""
        is_owed = hook in (self.before_turn, self.after_pull)  # the ranks count on each other's

        def call(*given: Any, **named: Any) -> Any:
            found: list[Any] = [None]

            def work() -> None:
                found[0] = hook(*given, **named)

            self.control_guard.run(hook.__name__, work, is_owed=is_owed)
            return found[0]

        return call

    def _hooks(self) -> list[tuple[str, Callable[..., Any], str]]:
        return [
            (EAGLE + "EAGLEWorkerV2.__init__", self.after_init, "AFTER"),
            (EAGLE + "EAGLEWorkerV2.forward_batch_generation", self.around_forward, "AROUND"),
            (EAGLE + "EAGLEWorkerV2.verify", self.after_verify, "AFTER"),
            (EAGLE + "EagleDraftWorker._draft_extend_for_prefill", self.before_prefill_extend, "BEFORE"),
            (EAGLE + "EagleDraftWorker._draft_extend_for_decode", self.around_decode_extend, "AROUND"),
            ("sglang.srt.layers.logits_processor.LogitsProcessor.forward", self.before_logits, "BEFORE"),
            (SCHEDULER + "__init__", self.after_scheduler, "AFTER"),
            (SCHEDULER + TURN, self.before_turn, "BEFORE"),
            (COMPONENTS + "request_receiver.SchedulerRequestReceiver._pull_raw_reqs", self.after_pull, "AFTER"),
            (COMPONENTS + "output_streamer.SchedulerOutputStreamer.stream_output", self.before_stream, "BEFORE"),
            (HTTP + "generate_request", self.before_generate, "BEFORE"),
            ("sglang.srt.managers.io_struct.GenerateReqInput.__getitem__", self.after_item, "AFTER"),
        ]

    # -- the scheduler's process ------------------------------------------------------------------------------------

    @property
    def capture(self) -> Capture | None:
        return self.replica.capture if self.replica else None

    def after_init(self, result: None, worker: Any, *given: Any, **named: Any) -> None:
        """Target and draft are loaded, graphs are not captured yet."""

        def work() -> None:
            arguments = worker.server_args
            self.roll = roll_call.of_this_process()
            settings.check_parallel(arguments)
            config = settings.load(arguments.host, arguments.port)
            replica = Replica(worker, config, self.roll, self.guard, self.control_guard, self.missing)
            # Last: all ranks capture the same graphs, those of the control or none, and none where Aurora is off.
            if why := control.why_none(arguments) or ("" if self.roll.agree() else control.APART):
                log.warning("no control without speculation on this server: %s", why)
                replica.take_control(None, why)
            else:
                replica.take_control(control.install(worker, self.control_guard))
            self.replica = replica

        self._or_off(work)

    def after_scheduler(self, result: None, scheduler: Any, *given: Any, **named: Any) -> None:
        """The scheduler is built, its draft worker within it: from now on the console hears why Aurora is off."""
        self.arguments = scheduler.server_args
        if self.replica is None and not self.problem:
            gone = [each for each in self.missing if each.startswith(EAGLE)]
            self._off(f"this SGLang has no {', '.join(gone)}" if gone else "no EAGLE-3 draft worker was built")
        elif self.replica is not None and SCHEDULER + TURN in self.missing:
            self._off(f"this SGLang has no {SCHEDULER + TURN}")
        else:
            self._tell()

    def _tell(self) -> None:
        """One rank tells; where rank 0 lives, its reports carry what keeps another one away."""
        if self.problem and self.arguments is not None and self.off is None and self.roll.rank == 0:
            self.off = off.report(self.arguments, engine_name(), self.problem)

    def _or_off(self, work: Callable[[], None]) -> None:
        """Do ``work``; when it fails, the server serves without Aurora, and console and other ranks hear why."""
        try:
            work()
        except settings.PluginConfigError as error:
            log.error("Aurora is off, the server serves without it: %s", error)
            self._off(str(error))
        except Exception as error:
            log.exception("Aurora is off, the server serves without it")
            self._off(f"{type(error).__name__}: {error}")

    def _off(self, problem: str) -> None:
        replica, self.replica = self.replica, None
        self.problem = problem
        self.roll.say(problem)
        if replica is not None:
            replica.close()
        self._tell()

    def around_forward(self, original: Callable[..., Any], *given: Any, **named: Any) -> Any:
        capture = self.capture
        if capture is None or not self.guard.holds("batch", lambda: _is_decoding(given[1])):
            return original(*given, **named)
        self.guard.run("step", capture.step_begins)
        result = original(*given, **named)
        self.guard.run("step", capture.step_ends)
        return result

    def after_verify(self, result: Any, worker: Any, batch: Any, *given: Any, **named: Any) -> None:
        replica, capture = self.replica, self.capture
        if replica is None or capture is None or batch.forward_mode.is_idle():
            return
        capture.block = replica.policy.block if replica.policy else 0
        self.guard.run("verify", lambda: capture.verified(batch, batch.spec_info, result))

    def around_decode_extend(self, original: Callable[..., Any], *given: Any, **named: Any) -> Any:
        capture = self.capture
        if capture is None:
            return original(*given, **named)
        self.guard.run("extend", capture.mark)
        result = original(*given, **named)
        self.guard.run("extend", capture.mark)
        return result

    def before_prefill_extend(self, worker: Any, batch: Any, hidden: Any, *given: Any, **named: Any) -> None:
        capture = self.capture
        if capture is not None:
            self.guard.run("prefill", lambda: capture.prefilled(batch, hidden))

    def before_logits(self, processor: Any, input_ids: Any, hidden: Any, *given: Any, **named: Any) -> None:
        replica = self.replica
        if replica is None or processor is not replica.logits_processor:
            return
        if replica.capture is None:  # SGLang captures its graphs before the scheduler turns
            self.guard.run("graph", lambda: replica.final.note_graph(hidden))
        else:
            self.guard.run("final", lambda: replica.final.note(hidden))

    def before_turn(self, scheduler: Any, requests: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Commands are taken out on every rank, with a replica or without: SGLang would end over them."""
        if not self.has_begun:
            self.has_begun = True
            self.control_guard.run("begin", self._begin)
        if (replica := self.replica) is not None:  # owed: what is held must go, also after too many failures
            self.guard.run("sweep", lambda: replica.sweep(scheduler), is_owed=True)
        commands = [each for each in requests if isinstance(each, Command)]
        if not requests or (self.replica is None and not commands):
            return None
        others = [each for each in requests if not isinstance(each, Command)]
        if self.replica is not None:
            self.replica.turn(scheduler, commands, others)
        return (scheduler, others), {}

    def _begin(self) -> None:
        if self.replica is not None:
            self._or_off(self.replica.begin)

    def after_pull(self, result: list[Any] | None, receiver: Any) -> list[Any] | None:
        """Rank 0's commands travel with the requests; the other ranks' receivers give None and wait for these."""
        if self.replica is None or result is None:
            return None
        commands = self.replica.outgoing()
        return [*result, *commands] if commands else None

    def before_stream(self, streamer: Any, requests: Any, *given: Any, **named: Any) -> None:
        capture = self.capture
        if capture is not None:
            self.guard.run("stream", lambda: capture.streamed(requests))

    # -- the HTTP process -------------------------------------------------------------------------------------------

    def before_generate(self, manager: Any, obj: Any, request: Any = None) -> None:
        """Every route comes by here; calls from Python, SGLang's own warm-ups (--warmups) too, have no request."""
        if request is None:
            obj.routing_key = labels.seen(obj.routing_key)
        else:
            key = obj.routing_key or request.headers.get("x-smg-routing-key")
            obj.routing_key = labels.with_headers(key, request.headers)
        if (request is not None or _is_of_http_server(manager)) and manager.server_status.name == "Starting":
            obj.routing_key = labels.of_warm_up(obj.routing_key)  # the answer to SGLang's first prompt has not come

    def after_item(self, part: Any, whole: Any, *given: Any, **named: Any) -> None:
        """A list of prompts, or several answers to one, come apart here, and SGLang leaves the routing key behind."""
        if part.routing_key is None:
            part.routing_key = whole.routing_key


def _is_decoding(batch: Any) -> bool:
    return not (batch.forward_mode.is_extend() or batch.is_extend_in_batch)


def _is_of_http_server(manager: Any) -> bool:
    """Whether a tokenizer manager is that of SGLang's HTTP server; ``sgl.Engine``'s own stays "Starting" for ever."""
    http_server = sys.modules.get("sglang.srt.entrypoints.http_server")
    state = getattr(http_server, "_global_state", None)
    return state is not None and state.tokenizer_manager is manager


def activate() -> None:
    """SGLang's plugin loader calls this; it does nothing without AURORA_CONSOLE_URL."""
    if settings.is_switched_on():
        Plugin().register()
