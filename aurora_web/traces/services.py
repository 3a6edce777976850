"""Every write about traces and segments: ingest, leases, expiry of hidden states, partitions."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Max, Sum
from django.utils import timezone
from psycopg import sql

from aurora_web.duties import apart
from aurora_web.registry.models import Target
from aurora_web.registry.services import find_target
from aurora_web.retention.services import kept
from aurora_web.traces import codec
from aurora_web.traces.domains import mapping
from aurora_web.traces.models import Trace, TraceSegment
from aurora_web.traces.pins import untrained_domains
from speculators.records import RecordError, SegmentManifest

log = logging.getLogger(__name__)
MAX_TRACES_PER_REQUEST = 20_000
EARLY_HELD_OUT = 3  # traces of a domain; until so many are held out,
EARLY_HELD_OUT_EVERY = 4  # one in four is
DOMAINS_REMEMBERED = 10_000
_COLUMNS = sql.SQL(", ").join(map(sql.Identifier, codec.COLUMNS))


def ingest_segment(payload: Any) -> tuple[int, int]:
    """Store one segment and its traces, all or nothing; returns (accepted, duplicates) of traces.

    Idempotent on segment_id and trace_id. Raises RecordError naming the field, UnknownTarget.
    """
    if not isinstance(payload, dict) or payload.keys() != {"segment", "traces"}:
        raise RecordError("expected an object with the fields segment and traces")
    manifest = SegmentManifest.from_json(payload["segment"])
    raw = payload["traces"]
    if not isinstance(raw, list) or len(raw) > MAX_TRACES_PER_REQUEST:
        raise RecordError(f"traces: expected a list of at most {MAX_TRACES_PER_REQUEST} traces")
    target = find_target(manifest.target)
    now = timezone.now()
    segment = _segment(manifest, target)
    domain_of = mapping(target)
    every_of = _held_out_every(target)
    rows = [
        codec.row(t, i, target.pk, target.slug, target.vocab_size, now, domain_of, every_of) for i, t in enumerate(raw)
    ]
    if any(r[4] != segment.pk for r in rows):
        raise RecordError(f"traces: expected every segment_id to be {manifest.segment_id}")
    if len({r[0] for r in rows}) != len(rows):
        raise RecordError("traces: a trace_id occurs twice")
    with transaction.atomic():
        TraceSegment.objects.bulk_create([segment], ignore_conflicts=True)
        accepted = _copy(rows)
    return accepted, len(rows) - accepted


_have_enough: set[tuple[int, str]] = set()  # (target, domain) with EARLY_HELD_OUT traces held out, for ever


def _held_out_every(target: Target) -> Callable[[str], int]:
    """One trace in how many of a domain is held out: more at first, or a slow target's day 0 waits for the gate."""

    @functools.cache
    def every(domain: str) -> int:
        key = (target.pk, domain)
        if key not in _have_enough:
            found = Trace.objects.filter(target=target, domain=domain, is_held_out=True)
            if len(found.values_list("trace_id")[:EARLY_HELD_OUT]) < EARLY_HELD_OUT:
                return EARLY_HELD_OUT_EVERY
            if len(_have_enough) >= DOMAINS_REMEMBERED:  # their names come from clients
                _have_enough.clear()
            _have_enough.add(key)
        return codec.HELD_OUT_EVERY

    return every


def _segment(manifest: SegmentManifest, target: Target) -> TraceSegment:
    uri = codec.text(manifest.uri, "SegmentManifest.uri", 1000)
    if not uri.startswith("/") or ".." in uri.split("/"):
        raise RecordError(f"SegmentManifest.uri: expected an absolute path, got {uri!r:.80}")
    limit = 2**62
    return TraceSegment(
        id=codec.identifier(manifest.segment_id, "SegmentManifest.segment_id"),
        target=target,
        replica=codec.text(manifest.replica, "SegmentManifest.replica", 200),
        uri=uri,
        sha256=codec.text(manifest.sha256, "SegmentManifest.sha256", 64),
        size_bytes=codec.count(manifest.size_bytes, "SegmentManifest.size_bytes", limit),
        num_traces=codec.count(manifest.num_traces, "SegmentManifest.num_traces"),
        num_tokens=codec.count(manifest.num_tokens, "SegmentManifest.num_tokens", limit),
        aux_layer_ids=[codec.count(v, "SegmentManifest.aux_layer_ids") for v in manifest.aux_layer_ids],
        hidden_size=codec.count(manifest.hidden_size, "SegmentManifest.hidden_size"),
        dtype=codec.text(manifest.dtype, "SegmentManifest.dtype", 16),
        sealed_at=codec.moment(manifest.sealed_at, "SegmentManifest.sealed_at"),
    )


_INCOMING = """
CREATE TEMPORARY TABLE IF NOT EXISTS incoming (LIKE traces_trace INCLUDING DEFAULTS) ON COMMIT DELETE ROWS;
DELETE FROM incoming
"""


def _copy(rows: Sequence[tuple[Any, ...]]) -> int:
    """COPY into a temporary table, then insert what is new: by trace_id, whatever its started_at says."""
    if not rows:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(_INCOMING)
        with cursor.copy(sql.SQL("COPY incoming ({}) FROM STDIN").format(_COLUMNS)) as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute(
            sql.SQL(
                "INSERT INTO traces_trace ({0}) SELECT {0} FROM incoming i"
                " WHERE NOT EXISTS (SELECT 1 FROM traces_trace t WHERE t.trace_id = i.trace_id)"
                " AND NOT EXISTS (SELECT 1 FROM traces_deletedtrace d WHERE d.trace_id = i.trace_id)"
                " ON CONFLICT DO NOTHING"
            ).format(_COLUMNS)
        )
        return int(cursor.rowcount)


_FRESH = """
WITH picked AS (
    SELECT trace_id, started_at FROM traces_trace
    WHERE target_id = %(target)s AND trained_at IS NULL AND NOT is_held_out AND NOT is_lost
      AND (lease_expires_at IS NULL OR lease_expires_at < now()) AND domain <> ALL(%(untrained)s)
    ORDER BY received_at DESC LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
UPDATE traces_trace t SET lease_id = %(lease)s, lease_expires_at = now() + %(seconds)s * interval '1 second'
FROM picked p WHERE t.trace_id = p.trace_id AND t.started_at = p.started_at
RETURNING t.trace_id
"""


def lease_fresh(target: Target, lease_id: UUID, limit: int, seconds: float) -> list[UUID]:
    """Claim the newest traces that were never trained on and that nobody holds; returns their ids.

    Traces that arrived before their domain was pinned to no training stay, and wait while the pin holds.
    """
    untrained = untrained_domains(target)
    with connection.cursor() as cursor:
        cursor.execute(
            _FRESH,
            {"target": target.pk, "limit": limit, "lease": lease_id, "seconds": seconds, "untrained": untrained},
        )
        return [row[0] for row in cursor.fetchall()]


def extend_lease(lease_id: UUID, seconds: float) -> None:
    """Hold the traces of a living slice for so long from now, unless more than half of that is left."""
    now = timezone.now()
    held = Trace.objects.filter(lease_id=lease_id, trained_at=None)
    due = held.filter(lease_expires_at__lt=now + timedelta(seconds=seconds / 2))
    due.update(lease_expires_at=now + timedelta(seconds=seconds))


def release(lease_id: UUID) -> int:
    """Give back what a slice holds and did not train on; returns how many traces."""
    return Trace.objects.filter(lease_id=lease_id, trained_at=None).update(lease_id=None, lease_expires_at=None)


@transaction.atomic
def acknowledge(lease_id: UUID, trained: Iterable[UUID], missing: Iterable[UUID]) -> int:
    """Mark leased traces trained (or lost), and give back the rest; returns how many were trained on.

    Only traces that ``lease_id`` still holds count: after an expiry somebody else may have them.
    """
    mine = Trace.objects.filter(lease_id=lease_id, trained_at=None)
    num_trained = mine.filter(trace_id__in=list(trained)).update(trained_at=timezone.now(), lease_expires_at=None)
    mine.filter(trace_id__in=list(missing)).update(is_lost=True, lease_id=None, lease_expires_at=None)
    release(lease_id)
    return num_trained


def count_fresh(target: Target, limit: int) -> tuple[int, datetime | None]:
    """How many traces wait to be trained on (counted up to ``limit``), and when the oldest of those arrived."""
    waiting = Trace.objects.filter(target=target, trained_at=None, is_held_out=False, is_lost=False)
    waiting = waiting.exclude(domain__in=untrained_domains(target))
    free = waiting.exclude(lease_expires_at__gte=timezone.now()).order_by("-received_at")
    arrived = list(free.values_list("received_at", flat=True)[:limit])
    return len(arrived), arrived[-1] if arrived else None


def create_partitions(today: datetime, days_ahead: int = 3) -> None:
    """Day partitions from today to three days ahead."""
    for offset in range(days_ahead + 1):
        day = (today.astimezone(UTC) + timedelta(days=offset)).replace(hour=0, minute=0, second=0, microsecond=0)
        _create_partition(day)


def _create_partition(day: datetime) -> None:
    name = f"traces_trace_{day:%Y%m%d}"
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [name])
        if cursor.fetchone()[0]:
            return
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('traces_trace_partitions'))")
        bounds = {"day": day, "next": day + timedelta(days=1)}
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM traces_trace_default WHERE started_at >= %(day)s AND started_at < %(next)s)",
            bounds,
        )
        if cursor.fetchone()[0]:
            return  # those rows came before their partition; they stay in the default one
        cursor.execute(
            sql.SQL("CREATE TABLE IF NOT EXISTS {} PARTITION OF traces_trace FOR VALUES FROM ({}) TO ({})").format(
                sql.Identifier(name), sql.Literal(bounds["day"].isoformat()), sql.Literal(bounds["next"].isoformat())
            )
        )


def days_kept(target: Target) -> float:
    """How long a target's traces are kept: its own rule, else the console's."""
    return kept().trace_days if target.trace_days is None else float(target.trace_days)


def longest_days_kept() -> float:
    """Of all targets; whole partitions live that long."""
    own = Target.objects.aggregate(n=Max("trace_days"))["n"]
    return max(kept().trace_days, float(own or 0))


def drop_old_partitions(now: datetime) -> list[str]:
    """Drop day partitions that no target keeps any more, and such rows of the default one; returns the names."""
    first_kept = now.astimezone(UTC) - timedelta(days=longest_days_kept())
    oldest = f"traces_trace_{first_kept:%Y%m%d}"
    with connection.cursor() as cursor:
        cursor.execute(r"SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^traces_trace_\d{8}$'")
        names = sorted(name for (name,) in cursor.fetchall() if name < oldest)
        for name in names:
            cursor.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
        cursor.execute("DELETE FROM traces_trace_default WHERE received_at < %s", [first_kept])
    return names


def delete_expired(now: datetime) -> int:
    """Delete traces, and hidden states, of targets that keep them for less than a partition lives; returns how many."""
    longest, deleted = longest_days_kept(), 0
    for target in Target.objects.all():
        if (days := days_kept(target)) < longest:
            with apart(f"traces of {target} that are older than {days:g} days"):
                deleted += _delete_before(target, now - timedelta(days=days))
                expire_segments(now, days * 24, target)
    return deleted


def _delete_before(target: Target, limit: datetime) -> int:
    deleted = 0
    with connection.cursor() as cursor:
        for table, column in (("traces_trace", "started_at"), ("traces_trace_default", "received_at")):
            delete = sql.SQL("DELETE FROM {} WHERE target_id = %(target)s AND {} < %(limit)s")
            names = sql.Identifier(table), sql.Identifier(column)
            cursor.execute(delete.format(*names), {"target": target.pk, "limit": limit})
            deleted += cursor.rowcount
    return deleted


def expire_segments(now: datetime, hours: float | None = None, target: Target | None = None) -> int:
    """Delete segment files older than the retention; only files below the segments directory are touched."""
    limit = now - timedelta(hours=kept().segment_hours if hours is None else hours)
    old = TraceSegment.objects.filter(expired_at=None, sealed_at__lt=limit).order_by("sealed_at")
    expired = 0
    for segment in (old if target is None else old.filter(target=target))[:500]:
        path = Path(segment.uri).resolve()
        if path.is_relative_to(Path(settings.SEGMENTS_DIR).resolve()):
            try:
                path.unlink(missing_ok=True)
            except OSError:  # another user's directory: the replica that wrote it deletes it, by its quota
                log.warning("%s is past its retention and cannot be deleted", path, exc_info=True)
        expired += TraceSegment.objects.filter(pk=segment.pk, expired_at=None).update(expired_at=now)
    return expired


def maintain() -> None:
    """Partitions ahead, retention behind, hidden states expired."""
    now = timezone.now()
    dropped: list[str] = []
    deleted = expired = 0
    with apart("partitions ahead"):
        create_partitions(now)
    with apart("partitions that nobody keeps"):
        dropped = drop_old_partitions(now)
    with apart("traces that their targets do not keep"):
        deleted = delete_expired(now)
    with apart("hidden states that nobody keeps"):
        expired = expire_segments(now)
    if dropped or deleted or expired:
        log.info("traces: dropped %s, deleted %d by targets' rules, expired %d segments", dropped, deleted, expired)


def segment_bytes() -> int:
    """Bytes of hidden states on disk, as announced."""
    return TraceSegment.objects.filter(expired_at=None).aggregate(n=Sum("size_bytes"))["n"] or 0
