"""/metrics: what the engine and the recorder counted, in Prometheus's text format; counters rise from the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.engine.api import EngineApi
from serving.http.generation import Ending
from serving.trace.recorder import Recorder

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LABELS = ("domain", "version", "lookahead", "batch_bucket")
SUMS = {
    "requests": ("num_requests", "Finished requests"),
    "verify_steps": ("num_verify_steps", "Verify steps of finished requests"),
    "plain_steps": ("num_plain_steps", "Of these, steps that had no draft to verify"),
    "proposed_drafts": ("num_proposed_drafts", "Draft tokens proposed"),
    "correct_drafts": ("num_correct_drafts", "Draft tokens that passed, bonus excluded"),
    "accept_tokens": ("num_accept_tokens", "Tokens committed by verify steps, bonus included"),
    "decode_seconds": ("decode_seconds", "Engine time of the verify steps of finished requests"),
}

Gauges = Callable[[], dict[str, float]]


class Metrics(Collector):
    """Collects on demand; ``more`` gives gauges of parts that this module does not know (name -> value)."""

    def __init__(self, engine: EngineApi, recorder: Recorder, more: Gauges = dict) -> None:
        self.num_open = 0  # requests whose answer is not finished
        self._engine = engine
        self._recorder = recorder
        self._more = more
        self._registry = CollectorRegistry()
        self._request_seconds = Histogram(
            "aurora_request_seconds",
            "From submission to the end of the answer",
            buckets=SECONDS,
            registry=self._registry,
        )
        self._num_cut = 0
        self._registry.register(self)

    def opened(self) -> None:
        self.num_open += 1

    def closed(self, seconds: float, ending: Ending | None) -> None:
        """An answer ended; None: it was cut by the client, a stop of the server, or an error."""
        self.num_open -= 1
        self._num_cut += ending is None
        self._request_seconds.observe(seconds)

    def render(self) -> tuple[bytes, str]:
        """Text and content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        yield GaugeMetricFamily("aurora_engine_up", "1 while the engine's loop runs", self._engine.is_alive)
        yield GaugeMetricFamily("aurora_requests_running", "Requests being decoded", stats.num_running)
        yield GaugeMetricFamily("aurora_requests_waiting", "Requests not yet admitted", stats.num_waiting)
        yield GaugeMetricFamily("aurora_speculator_version", "Version that new requests get", stats.version)
        yield CounterMetricFamily("aurora_engine_errors", "Exceptions caught by the engine's loop", stats.num_errors)
        yield CounterMetricFamily("aurora_requests_cut", "Answers that did not end by themselves", self._num_cut)
        yield from self._sums()
        yield from self._recorded()
        accept = GaugeMetricFamily(
            "aurora_expected_accept_length", "Tokens per step of late, drafted or not", labels=["domain"]
        )
        for domain in stats.domains:
            accept.add_metric([domain.domain], domain.tokens_per_step)
        yield accept

    def _sums(self) -> Iterator[Metric]:
        totals = dict(self._recorder.totals)
        for name, (attribute, text) in SUMS.items():
            family = CounterMetricFamily(f"aurora_{name}", text, labels=LABELS)
            for key, sums in totals.items():
                family.add_metric([str(part) for part in key], getattr(sums, attribute))
            yield family

    def _recorded(self) -> Iterator[Metric]:
        recorder = self._recorder
        yield CounterMetricFamily("aurora_traces", "Traces announced", recorder.num_traces)
        yield CounterMetricFamily("aurora_dropped_traces", "Traces dropped or refused", recorder.num_dropped_traces)
        yield CounterMetricFamily("aurora_lost_counts", "Requests missing in the counts", recorder.num_lost_counts)
        yield CounterMetricFamily("aurora_write_errors", "Failed writes of traces", recorder.num_write_errors)
        for name, value in self._more().items():
            yield GaugeMetricFamily(f"aurora_{name}", name.replace("_", " "), value)
