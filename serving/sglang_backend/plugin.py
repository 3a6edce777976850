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
from serving.sglang_backend import labels
from serving.sglang_backend.guard import Guard
from serving.sglang_backend.replica import Replica

log = logging.getLogger(__name__)

EAGLE = "sglang.srt.speculative.eagle_worker_v2."
SCHEDULER = "sglang.srt.managers.scheduler.Scheduler."
COMPONENTS = "sglang.srt.managers.scheduler_components."
HTTP = "sglang.srt.entrypoints.openai.serving_base.OpenAIServingBase."


class Plugin:
    """The hooks of one process; ``replica`` exists once its draft worker has been built."""

    def __init__(self) -> None:
        self.guard = Guard()  # of capture: it gives up after too many failures
        self.control_guard = Guard(sys.maxsize)  # of the rest: our commands must be taken out of SGLang's requests
        self.replica: Replica | None = None
        self.missing: list[str] = []
        self.has_begun = False

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

        def call(*given: Any, **named: Any) -> Any:
            found: list[Any] = [None]

            def work() -> None:
                found[0] = hook(*given, **named)

            self.control_guard.run(hook.__name__, work)
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
            (SCHEDULER + "process_input_requests", self.before_turn, "BEFORE"),
            (COMPONENTS + "request_receiver.SchedulerRequestReceiver._pull_raw_reqs", self.after_pull, "AFTER"),
            (COMPONENTS + "output_streamer.SchedulerOutputStreamer.stream_output", self.before_stream, "BEFORE"),
            (HTTP + "extract_routing_key", self.after_routing_key, "AFTER"),
        ]

    # -- the scheduler's process ------------------------------------------------------------------------------------

    def after_init(self, result: None, worker: Any, *given: Any, **named: Any) -> None:
        """Target and draft are loaded, graphs are not captured yet."""

        def work() -> None:
            arguments = worker.server_args
            config = settings.load(arguments.host, arguments.port)
            self.replica = Replica(worker, config, self.guard, self.control_guard, self.missing)

        self._or_off(work)

    def _or_off(self, work: Callable[[], None]) -> None:
        try:
            work()
        except settings.PluginConfigError as error:
            self.replica = None
            log.error("Aurora is off, the server serves without it: %s", error)
        except Exception:
            self.replica = None
            log.exception("Aurora is off, the server serves without it")

    def around_forward(self, original: Callable[..., Any], worker: Any, batch: Any, *given: Any, **named: Any) -> Any:
        capture = self.replica.capture if self.replica else None
        if capture is None or batch.forward_mode.is_extend() or batch.is_extend_in_batch:
            return original(worker, batch, *given, **named)
        self.guard.run("step", capture.step_begins)
        result = original(worker, batch, *given, **named)
        self.guard.run("step", capture.step_ends)
        return result

    def after_verify(self, result: Any, worker: Any, batch: Any, *given: Any, **named: Any) -> None:
        replica = self.replica
        if replica is not None and replica.capture is not None and not batch.forward_mode.is_idle():
            capture = replica.capture
            capture.block = replica.policy.block if replica.policy else 0
            self.guard.run("verify", lambda: capture.verified(batch, batch.spec_info, result))

    def around_decode_extend(self, original: Callable[..., Any], *given: Any, **named: Any) -> Any:
        capture = self.replica.capture if self.replica else None
        if capture is None:
            return original(*given, **named)
        self.guard.run("extend", capture.mark)
        result = original(*given, **named)
        self.guard.run("extend", capture.mark)
        return result

    def before_prefill_extend(self, worker: Any, batch: Any, hidden: Any, *given: Any, **named: Any) -> None:
        capture = self.replica.capture if self.replica else None
        if capture is not None:
            self.guard.run("prefill", lambda: capture.prefilled(batch, hidden))

    def before_logits(self, processor: Any, input_ids: Any, hidden: Any, *given: Any, **named: Any) -> None:
        replica = self.replica
        if replica is not None and replica.capture is not None and processor is replica.logits_processor:
            capture = replica.capture
            self.guard.run("final", lambda: capture.final.note(hidden))

    def before_turn(self, scheduler: Any, requests: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.replica is not None and not self.has_begun:
            self.has_begun = True
            self._or_off(self.replica.begin)
        if self.replica is None or not requests:
            return None
        return (scheduler, self.replica.turn(scheduler, requests)), {}

    def after_pull(self, result: list[Any] | None, receiver: Any) -> list[Any] | None:
        """Rank 0's commands travel with the requests; the other ranks' receivers give None and wait for these."""
        if self.replica is None or result is None:
            return None
        commands = self.replica.outgoing()
        return [*result, *commands] if commands else None

    def before_stream(self, streamer: Any, requests: Any, *given: Any, **named: Any) -> None:
        capture = self.replica.capture if self.replica else None
        if capture is not None:
            self.guard.run("stream", lambda: capture.streamed(requests))

    # -- the HTTP process -------------------------------------------------------------------------------------------

    def after_routing_key(self, result: str | None, serving: Any, request: Any) -> str | None:
        return result if request is None else labels.with_headers(result, request.headers)


def activate() -> None:
    """SGLang's plugin loader calls this; it does nothing without AURORA_CONSOLE_URL."""
    if settings.is_switched_on():
        Plugin().register()
