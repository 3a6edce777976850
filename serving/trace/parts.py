"""Everything that records, announces and follows beside an engine; the same for the embedded engine and SGLang."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.engine.api import FollowedEngine
from serving.engine.pins import Pins
from serving.trace.console import ConsoleClient
from serving.trace.counts import CountAggregator
from serving.trace.desired_file import DesiredFile
from serving.trace.follower import Follower
from serving.trace.identity import Beside, Identity
from serving.trace.pins import PinFollower
from serving.trace.poster import Poster
from serving.trace.recorder import MAX_WAITING_BYTES, Recorder
from serving.trace.segments import SegmentLimits, SegmentQuota, SegmentWriter
from serving.trace.spool import Spool

log = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0  # at a stop, for announcements that the console can still take


@dataclass(frozen=True, slots=True)
class Recording:
    """Where a replica keeps what it records, and to whom it reports."""

    slug: str
    replica: str
    engine_name: str
    public_url: str
    console_url: str  # "" = alone: nothing is kept, no version changes
    token: str
    state_dir: Path
    segment_age_seconds: float = 2.0
    segment_bytes: int = 64 << 20
    segment_quota_bytes: int = 8 << 30
    spool_quota_bytes: int = 1 << 30
    max_waiting_bytes: int = MAX_WAITING_BYTES  # hidden states of finished requests, until they are on disk
    model_path: str = ""  # on the launch line, like the draft's; "" = never announced to a console that knows no target
    draft_path: str = ""

    @property
    def segments_dir(self) -> Path:
        return self.state_dir / "segments" / self.slug

    @property
    def spool_root(self) -> Path:
        return self.state_dir / "spool"

    @property
    def desired_file(self) -> Path:
        return self.state_dir / "replicas" / f"{self.replica}.desired.json"

    @property
    def pins_file(self) -> Path:
        return self.state_dir / "replicas" / f"{self.replica}.pins.json"


@dataclass(frozen=True, slots=True)
class Parts:
    """What runs beside the engine; poster, follower and quota are None without a console."""

    recorder: Recorder
    spool: Spool | None = None
    quota: SegmentQuota | None = None
    poster: Poster | None = None
    follower: Follower | None = None

    def gauges(self) -> dict[str, float]:
        """For /metrics."""
        gauges: dict[str, float] = {}
        if self.spool and self.quota and self.poster and self.recorder.segments:
            gauges["spool_bytes"] = self.spool.num_bytes
            gauges["spool_announcements"] = len(self.spool)
            gauges["spool_rejected"] = self.spool.num_rejected
            gauges["announcements_sent"] = self.poster.num_sent
            gauges["announcements_dropped"] = self.spool.num_dropped
            gauges["segment_bytes"] = self.quota.num_bytes
            gauges["segments_dropped"] = self.quota.num_dropped_segments
            gauges["traces_without_states"] = self.recorder.segments.num_traces_without_states
        if self.follower:
            gauges["console_failed_reports"] = self.follower.num_failed_reports
        return gauges


@contextmanager
def running(
    recording: Recording,
    aux_layer_ids: tuple[int, ...],
    engine: FollowedEngine,
    target_config: dict[str, Any],
    beside: Callable[[], Beside] = Beside,
) -> Iterator[Parts]:
    """The parts at work, the follower made but not started; on exit the open segment is sealed and the spool stays.

    ``beside`` gives what only the engine knows; what the recorder knows is filled in here. Raises SpoolInUseError.
    """
    with ExitStack() as stack:
        if recording.console_url:
            yield _with_console(recording, aux_layer_ids, engine, target_config, beside, stack)
            return
        log.warning("no console address: requests are served, but no traces are kept and no version will ever change")
        recorder = Recorder(CountAggregator(recording.slug, recording.replica), None, None, pins=engine.pins)
        recorder.start()
        stack.callback(recorder.stop)
        yield Parts(recorder)


def _with_console(
    recording: Recording,
    aux_layer_ids: tuple[int, ...],
    engine: FollowedEngine,
    target_config: dict[str, Any],
    beside: Callable[[], Beside],
    stack: ExitStack,
) -> Parts:
    """As ``running`` gives them; ``stack`` ends the recorder first, whose last announcements the poster still sends."""
    spool = Spool(recording.spool_root / recording.replica)
    stack.callback(spool.close)
    quota = SegmentQuota(recording.segments_dir, recording.spool_root, recording.segment_quota_bytes)
    recorder = _recorder(recording, aux_layer_ids, target_config["hidden_size"], engine.pins, spool, quota)
    client = ConsoleClient(recording.console_url, recording.token)
    stack.callback(client.close)
    poster = Poster(spool, client)
    follower = Follower(
        engine,
        client,
        _identity(recording, aux_layer_ids),
        target_config,
        DesiredFile(recording.desired_file),
        PinFollower(engine.pins, recording.pins_file),
        lambda: _with_losses(beside(), recorder, spool),
    )
    recorder.is_for_another = lambda: bool(follower.other_layers)
    poster.start()
    stack.callback(poster.stop, FLUSH_SECONDS)
    recorder.start()
    stack.callback(recorder.stop)
    return Parts(recorder, spool, quota, poster, follower)


def _recorder(
    recording: Recording,
    aux_layer_ids: tuple[int, ...],
    hidden_size: int,
    pins: Pins,
    spool: Spool,
    quota: SegmentQuota,
) -> Recorder:
    most_open = min(recording.segment_bytes, recording.max_waiting_bytes // 4)  # it is a part of what may wait
    limits = SegmentLimits(recording.segment_age_seconds, most_open)
    return Recorder(
        CountAggregator(recording.slug, recording.replica),
        SegmentWriter(recording.slug, recording.replica, aux_layer_ids, hidden_size, spool, quota, limits),
        spool,
        pins=pins,
        max_spool_bytes=recording.spool_quota_bytes,
        max_waiting_bytes=recording.max_waiting_bytes,
    )


def _identity(recording: Recording, aux_layer_ids: tuple[int, ...]) -> Identity:
    return Identity(
        recording.replica,
        recording.slug,
        recording.engine_name,
        recording.public_url,
        recording.model_path,
        recording.draft_path,
        aux_layer_ids,
    )


def _with_losses(beside: Beside, recorder: Recorder, spool: Spool) -> Beside:
    return dataclasses.replace(
        beside,
        num_dropped_traces=beside.num_dropped_traces + recorder.num_dropped_traces,
        spool_bytes=spool.num_bytes,
        num_traces=recorder.num_traces,
        queue_bytes=beside.queue_bytes + recorder.queue_bytes,
    )
