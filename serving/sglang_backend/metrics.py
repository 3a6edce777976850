"""SGLang's own counters, read from its ``/metrics``: they are shown beside ours, and a disagreement is an alarm."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

import httpx

log = logging.getLogger(__name__)

SAMPLE = re.compile(r"^(sglang:\w+?)(?:_total)?(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
INTERVAL_SECONDS = 3.0
MOST = 2.0**63  # what the console can keep; no counter gets there


@dataclass(frozen=True, slots=True)
class EngineCounts:
    """Over requests that have finished, health checks included (they take no verify step)."""

    num_verify_steps: int = 0
    num_accept_tokens: int = 0  # generated tokens without each request's first, which comes from the prefill


@dataclass(frozen=True, slots=True)
class Reading:
    """Both counts of one moment, so that what lies between two of them can be compared."""

    engine: EngineCounts = EngineCounts()
    # By our records; None = the engine's have never been read
    num_verify_steps: int | None = None
    num_accept_tokens: int | None = None


def parse(text: str) -> EngineCounts | None:
    """Read Prometheus text; None when the counters are not in it (yet, or ever). NaN and +Inf count nothing."""
    sums: dict[str, float] = {}
    for name, value in SAMPLE.findall(text):
        if (number := _number(value)) is not None:
            sums[name] = sums.get(name, 0.0) + number
    tokens, requests = sums.get("sglang:generation_tokens"), sums.get("sglang:num_requests")
    if tokens is None or requests is None:
        return None
    return EngineCounts(int(sums.get("sglang:spec_verify_calls", 0)), max(0, int(tokens - requests)))


def _number(text: str) -> float | None:
    """None for what no counter can be at."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < MOST else None


class MetricsReader:
    """A thread that keeps the latest counts. A server without ``--enable-metrics`` leaves them at 0.

    ``ours`` gives (verify steps, accept tokens) by our records, of finished requests as well.
    """

    def __init__(
        self, engine_url: str, ours: Callable[[], tuple[int, int]], interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        self.latest = Reading()
        self._ours = ours
        self._interval_seconds = interval_seconds
        self._http = httpx.Client(base_url=engine_url, timeout=5.0, trust_env=False)
        self._stopped = threading.Event()
        self._is_told = False
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(6.0)
        self._http.close()

    def read(self) -> None:
        """Ask once; what cannot be had is logged once."""
        try:
            answer = self._http.get("/metrics")
            answer.raise_for_status()
        except httpx.HTTPError as error:
            if not self._is_told:
                log.info("SGLang's /metrics are not to be had (--enable-metrics?): %s", error)
                self._is_told = True
            return
        self._is_told = False
        if (engine := parse(answer.text)) is not None:
            self.latest = Reading(engine, *self._ours())

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_seconds):
            try:
                self.read()
            except Exception:
                log.exception("SGLang's /metrics could not be read; the next look is in a few seconds")
