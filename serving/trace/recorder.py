"""Between the engine and the disk: finished requests are handed over in O(1) and written by a thread of their own."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from serving.engine.api import FinishedRequest, Part
from serving.engine.pins import Pins
from serving.trace.counts import CountAggregator, Key, Sums, key_of
from serving.trace.segments import SegmentWriter
from serving.trace.spool import COUNTS_PREFIX, Spool

log = logging.getLogger(__name__)

MAX_WAITING_REQUESTS = 10_000
MAX_WAITING_BYTES = 256 << 20  # of hidden states, from the engine until they are on disk; a larger trace comes alone
MAX_TOTAL_KEYS = 512  # label sets kept for /metrics; domains come from clients


@dataclass(frozen=True, slots=True)
class _Handover:
    finished: FinishedRequest
    is_trace: bool


@dataclass(frozen=True, slots=True)
class _Count:
    domain: str
    part: Part


def state_bytes(finished: FinishedRequest) -> int:
    """Bytes of hidden states that a finished request carries."""
    return sum(tensor.nbytes for tensor in (finished.states, finished.final) if tensor is not None)


class Recorder:
    """Counts every finished request and keeps traces of those that may be learnt from.

    ``segments`` and ``spool`` None: nothing is kept (there is no console to learn from it), only totals.
    """

    def __init__(
        self,
        counts: CountAggregator,
        segments: SegmentWriter | None,
        spool: Spool | None,
        *,
        pins: Pins | None = None,
        max_spool_bytes: int = 1 << 30,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        max_waiting_requests: int = MAX_WAITING_REQUESTS,
    ) -> None:
        self.counts = counts
        self.segments = segments
        self.spool = spool
        self.pins = pins or Pins()
        self.max_spool_bytes = max_spool_bytes
        self.max_waiting_bytes = max_waiting_bytes
        self.max_waiting_requests = max_waiting_requests
        # Whether what the engine captures is for another draft than the one that is trained; set by parts.running.
        self.is_for_another: Callable[[], bool] = bool
        self.num_lost_counts = 0
        self.num_write_errors = 0
        self.totals: dict[Key, Sums] = {}  # since the start; whole values are replaced, so readers need no lock
        self._num_dropped = 0
        self._waiting: deque[_Handover | _Count] = deque()
        self._waiting_bytes = 0  # of what waits, and of what is being put into a segment
        self._open_bytes = 0  # in the open segment, until it is on disk
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    @property
    def keeps_traces(self) -> bool:
        return self.segments is not None

    def keeps(self, domain: str) -> bool:
        """Whether traces of what clients call ``domain`` are kept: not while a pin says no training."""
        return self.keeps_traces and not self.pins.of(domain).no_training

    @property
    def num_traces(self) -> int:
        """Announced since the start, also those that the console refused later; it never falls."""
        return self.segments.num_announced_traces if self.segments else 0

    @property
    def num_dropped_traces(self) -> int:
        """For want of room in the queue or in the spool, or because the disk or the console refused them."""
        num_refused = self.spool.num_rejected_traces if self.spool is not None else 0
        num_lost = self.segments.num_lost_traces if self.segments else 0
        return self._num_dropped + num_lost + num_refused

    @property
    def queue_bytes(self) -> int:
        """Hidden states handed over and not yet written."""
        with self._changed:
            return self._waiting_bytes + self._open_bytes

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Write everything handed over so far, seal the open segment, end the thread."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join(timeout)

    def put(self, finished: FinishedRequest, *, is_trace: bool) -> None:
        """Hand over a finished request; returns at once. What does not fit is dropped and counted.

        A pin may have come while the request ran: it is asked again here, and then nothing is dropped, just not kept.
        """
        if is_trace and (self.pins.of(finished.domain).no_training or self.is_for_another()):
            finished, is_trace = dataclasses.replace(finished, states=None, final=None), False
        size = state_bytes(finished)
        with self._changed:
            if len(self._waiting) >= self.max_waiting_requests:
                self.num_lost_counts += 1
                self._num_dropped += is_trace
                return
            if size and not self._has_room(size):
                self._num_dropped += is_trace
                finished, is_trace, size = dataclasses.replace(finished, states=None, final=None), False, 0
            self._waiting.append(_Handover(finished, is_trace))
            self._waiting_bytes += size
            self._changed.notify()

    def _has_room(self, size: int) -> bool:
        """Where nothing else waits, a trace goes through whatever its size."""
        return self.queue_bytes + size <= self.max_waiting_bytes or not self._waiting_bytes

    def count(self, domain: str, part: Part) -> None:
        """Count steps that belong to no single request; returns at once."""
        with self._changed:
            if len(self._waiting) >= self.max_waiting_requests:
                self.num_lost_counts += 1
                return
            self._waiting.append(_Count(domain, part))
            self._changed.notify()

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Write what was handed over and what is due; False when stopped and empty."""
        with self._changed:
            if not self._waiting and not self._is_stopping:
                self._changed.wait(self._seconds_until_due())
            num_waiting, is_last = len(self._waiting), self._is_stopping
        for _ in range(num_waiting):
            self._write_next()
        with self._going_on():
            self._seal_if_due(is_last)
        self._account_for(0)
        with self._going_on():
            self._send_counts_if_due(is_last)
        return not is_last

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Whatever fails costs what it was about, and nothing else."""
        try:
            yield
        except Exception:
            self.num_write_errors += 1
            log.exception("traces or counts could not be written; they are lost, serving goes on")

    def _write_next(self) -> None:
        each = self._waiting.popleft()
        size = state_bytes(each.finished) if isinstance(each, _Handover) else 0
        with self._going_on():
            self._write(each)
        self._account_for(size)

    def _account_for(self, size: int) -> None:
        """So many bytes have left the queue, into the open segment if there is one; without one all are on disk."""
        with self._changed:
            self._waiting_bytes -= size
            self._open_bytes = self._open_bytes + size if self.segments and self.segments.num_waiting else 0

    def _write(self, each: _Handover | _Count) -> None:
        if isinstance(each, _Count):
            self._count(each.domain, each.part)
        else:
            self._record(each)

    def _record(self, handover: _Handover) -> None:
        finished = handover.finished
        if finished.finish_reason == "error":
            return
        for counted in (finished,) if finished.parts is None else finished.parts:
            self._count(finished.domain, counted)
        is_whole = finished.finish_reason in ("stop", "length") and finished.num_verify_steps > 0
        if not (handover.is_trace and is_whole) or self.segments is None or self.spool is None:
            return
        if self.spool.num_bytes > self.max_spool_bytes:
            self._num_dropped += 1
            return
        self.segments.add(finished)

    def _count(self, domain: str, counted: FinishedRequest | Part) -> None:
        if self.spool is not None:
            self.counts.add(domain, counted)
        key = key_of(domain, counted)
        if key not in self.totals and len(self.totals) >= MAX_TOTAL_KEYS:
            key = key._replace(domain="other")
        total = dataclasses.replace(self.totals.get(key, Sums()))
        total.add(counted)
        self.totals[key] = total

    def _seal_if_due(self, is_last: bool) -> None:
        if self.segments is not None and (is_last or self.segments.seconds_until_due() == 0.0):
            self.segments.seal()

    def _send_counts_if_due(self, is_last: bool) -> None:
        if self.spool is None or not (is_last or self.counts.seconds_until_due() == 0.0):
            return
        windows = self.counts.take()
        if not windows:
            return
        try:
            counts = [window.to_json() for window in windows]
            self.spool.put(COUNTS_PREFIX + windows[0].window_id, {"counts": counts})
        except OSError:
            self.num_lost_counts += sum(window.num_requests for window in windows)
            raise

    def _seconds_until_due(self) -> float | None:
        waits = [self.counts.seconds_until_due(), self.segments.seconds_until_due() if self.segments else None]
        return min((wait for wait in waits if wait is not None), default=None)
