"""Hidden states: an open segment in memory, sealed into one safetensors file, announced with its traces.

Per trace the file holds ``<trace_id>.states`` float16 [T, K*Ht] and ``<trace_id>.final`` float16 [T, Ht], for the
positions from the trace's ``first_state`` on.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import save as serialise
from torch import Tensor

from serving.engine.api import FinishedRequest
from serving.trace.spool import UNFINISHED, Spool, write_durably
from speculators.records import SegmentManifest, TraceRecord

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
UNFINISHED_SECONDS = 3600.0  # an older one is of a process that was killed while it wrote
RESCAN_EVERY = 32  # seals between two looks at what is really on disk: others delete files, too


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """When a segment is sealed, and how much may be kept."""

    max_age_seconds: float = 2.0
    max_segment_bytes: int = 64 << 20
    quota_bytes: int = 8 << 30  # of all sealed segments of the target


@dataclass(slots=True)
class _Open:
    """What the next segment will hold."""

    opened_at: float  # monotonic
    segment_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    traces: list[TraceRecord] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    num_bytes: int = 0


def trace_of(finished: FinishedRequest, target: str, segment_id: str) -> TraceRecord:
    """The wire record of a request that ended by itself ("stop" or "length")."""
    return TraceRecord(
        trace_id=finished.request_id,
        target=target,
        domain=finished.domain,
        version=finished.version,
        tokens=finished.tokens,
        prompt_len=finished.prompt_len,
        temperature=finished.temperature,
        finish_reason=finished.finish_reason,
        started_at=finished.started_at,
        decode_seconds=finished.decode_seconds,
        lookahead=finished.lookahead,
        steps=finished.steps,
        segment_id=segment_id,
        first_state=finished.first_state,
        version_spans=finished.version_spans,
    )


class SegmentQuota:
    """Which sealed segments of one target may stay on disk."""

    def __init__(self, directory: Path, spool_root: Path, quota_bytes: int) -> None:
        self.directory = directory
        self.spool_root = spool_root
        self.quota_bytes = quota_bytes
        self.num_dropped_segments = 0
        directory.mkdir(parents=True, exist_ok=True)
        self._sizes: dict[Path, int] = {}  # oldest first
        self._seals = 0
        self._rescan()

    @property
    def num_bytes(self) -> int:
        return sum(self._sizes.values())

    def make_room(self, num_bytes: int) -> bool:
        """Delete the oldest acknowledged segments until ``num_bytes`` more fit; False when they cannot fit."""
        self._seals += 1
        if self._seals % RESCAN_EVERY == 0 or self.num_bytes + num_bytes > self.quota_bytes:
            self._rescan()
        excess = self.num_bytes + num_bytes - self.quota_bytes
        droppable = [path for path in self._sizes if excess > 0 and not self._is_announced(path)]
        for path in droppable:
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= self._sizes.pop(path)
            self.num_dropped_segments += 1
        return excess <= 0

    def add(self, path: Path, num_bytes: int) -> None:
        self._sizes[path] = num_bytes

    def _is_announced(self, path: Path) -> bool:
        """True while any replica's announcement of it waits: the console does not know it yet."""
        name = f"{path.stem}.json"
        return any((replica / name).exists() for replica in self.spool_root.iterdir() if replica.is_dir())

    def _rescan(self) -> None:
        found = []
        for path in self.directory.glob(f"*{SUFFIX}"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            found.append((stat.st_mtime_ns, path, stat.st_size))
        self._sizes = {path: size for _, path, size in sorted(found)}
        for path in self.directory.glob(f".*{UNFINISHED}"):  # another replica may be writing one
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > UNFINISHED_SECONDS:
                    path.unlink()


class SegmentWriter:
    """Collects finished requests into segments; used by one thread."""

    def __init__(
        self,
        target: str,
        replica: str,
        aux_layer_ids: tuple[int, ...],
        hidden_size: int,
        spool: Spool,
        quota: SegmentQuota,
        limits: SegmentLimits,
    ) -> None:
        self.target = target
        self.replica = replica
        self.aux_layer_ids = aux_layer_ids
        self.hidden_size = hidden_size
        self.spool = spool
        self.quota = quota
        self.limits = limits
        self.num_traces_without_states = 0  # announced, but their states did not fit the quota or the disk
        # Since the start, each trace in one of the two once its segment is sealed, so neither ever falls
        self.num_announced_traces = 0
        self.num_lost_traces = 0  # whose announcement could not be written
        self._open: _Open | None = None

    @property
    def num_waiting(self) -> int:
        """Traces in the open segment."""
        return len(self._open.traces) if self._open else 0

    def add(self, finished: FinishedRequest) -> None:
        """Put a trace into the open segment; seals it when it is full."""
        if self._open is None:
            self._open = _Open(time.monotonic())
        segment = self._open
        segment.traces.append(trace_of(finished, self.target, segment.segment_id))
        for name, tensor in (("states", finished.states), ("final", finished.final)):
            if tensor is not None:
                segment.tensors[f"{finished.request_id}.{name}"] = tensor.contiguous()
                segment.num_bytes += tensor.nbytes
        if segment.num_bytes >= self.limits.max_segment_bytes:
            self.seal()

    def seconds_until_due(self) -> float | None:
        """Seconds until the open segment must be sealed; None when there is none."""
        if self._open is None:
            return None
        return max(0.0, self._open.opened_at + self.limits.max_age_seconds - time.monotonic())

    def seal(self) -> None:
        """Write the open segment and announce it; does nothing when there is none. Raises OSError."""
        segment, self._open = self._open, None
        if segment is None:
            return
        try:
            self._announce(segment)
        except Exception:
            self.num_lost_traces += len(segment.traces)
            raise
        self.num_announced_traces += len(segment.traces)

    def _announce(self, segment: _Open) -> None:
        """States first, then the announcement, which says where they are."""
        path = (self.quota.directory / f"{segment.segment_id}{SUFFIX}").absolute()
        payload = serialise(segment.tensors) if segment.tensors else b""
        if payload and not self.quota.make_room(len(payload)):
            payload = b""
        if not (payload and self._is_written(path, payload)):
            payload = b""  # the tokens are worth having: the trainer recomputes the states
            self.num_traces_without_states += len(segment.traces)
        manifest = self._manifest(segment, path, payload)
        traces = [trace.to_json() for trace in segment.traces]
        try:
            self.spool.put(segment.segment_id, {"segment": manifest.to_json(), "traces": traces})
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def _is_written(self, path: Path, payload: bytes) -> bool:
        try:
            write_durably(path, payload)
        except OSError:
            log.exception("hidden states could not be written; their traces go without")
            return False
        self.quota.add(path, len(payload))
        return True

    def _manifest(self, segment: _Open, path: Path, payload: bytes) -> SegmentManifest:
        return SegmentManifest(
            segment_id=segment.segment_id,
            target=self.target,
            replica=self.replica,
            uri=str(path),
            sha256=hashlib.sha256(payload).hexdigest() if payload else "",
            size_bytes=len(payload),  # 0: there is no file, the states were not kept
            num_traces=len(segment.traces),
            num_tokens=sum(len(t.tokens) for t in segment.traces),
            aux_layer_ids=self.aux_layer_ids,
            hidden_size=self.hidden_size,
            dtype="float16",
            sealed_at=time.time(),
        )
