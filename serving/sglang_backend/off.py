"""A server that serves without Aurora tells the console why: it would be missing there, and only its log would know."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from dataclasses import replace
from typing import Any

from serving.sglang_backend import config as settings
from serving.sglang_backend.config import PluginConfig, PluginConfigError
from serving.trace.console import Backoff, ConsoleClient, ConsoleError, Interval
from speculators.records import ObservedState

log = logging.getLogger(__name__)

EVERY_SECONDS = 2.0  # the console takes who is silent for longer than that a few times for down


def nothing_yet(config: PluginConfig, engine: str) -> ObservedState:
    """A replica of which no more is known than its settings, at this moment."""
    return ObservedState(
        replica=config.replica,
        target=config.slug,
        engine=engine,
        url=config.engine_url,
        host=socket.gethostname(),
        generation=0,
        version=0,
        sha256="",
        state="starting",
        detail="",
        swap_ms=0.0,
        probe_accept_length=0.0,
        probe_num_steps=0,
        num_running=0,
        num_dropped_traces=0,
        spool_bytes=0,
        reported_at=time.time(),
        pins_revision=0,
    )


class OffReporter:
    """Reports a replica without a draft that it knows, whose capture is broken, until the process ends."""

    def __init__(self, config: PluginConfig, engine: str, problem: str, every_seconds: float = EVERY_SECONDS) -> None:
        self.config = config
        self.engine = engine
        self.problem = problem
        self.every_seconds = every_seconds
        self._client = ConsoleClient(config.console_url, config.token)
        self._backoff = Backoff(most_seconds=5.0)
        self._interval = Interval()
        self._thread = threading.Thread(target=self._run, name="aurora-off", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._interval.stop()
        self._thread.join(5.0)
        self._client.close()

    def observed(self) -> ObservedState:
        """What is true now."""
        return replace(
            nothing_yet(self.config, self.engine),
            state="serving",
            capture_state="broken",
            capture_detail=f"Aurora is off in this server: {self.problem}",
            pins_detail=self.problem,
        )

    def _run(self) -> None:
        wait = 0.0
        while self._interval.sleep(wait):
            try:
                self._client.post("ingest/observed", json.dumps(self.observed().to_json()).encode())
            except ConsoleError as error:
                wait = self._backoff.failed()
                log.debug("the console was not told that Aurora is off: %s", error)
            else:
                self._backoff.succeeded()
                wait = self.every_seconds


def report(arguments: Any, engine: str, problem: str) -> OffReporter | None:
    """Begin to tell; None where the settings do not say whom. ``arguments``: SGLang's, with its host and port."""
    try:
        reporter = OffReporter(settings.to_tell(arguments.host, arguments.port), engine, problem)
    except PluginConfigError:
        return None
    reporter.start()
    return reporter
