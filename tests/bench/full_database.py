"""A console with years of use in it: 50 targets, 500 versions, 5 million metric windows, a million traces.

Rows go through the migrated schema and its partitions with INSERT ... SELECT generate_series. One target, `busy`, has a
window in every ten seconds of the 28 days that are kept, 40 % of the traces and a quarter of the versions; the others
have every twentieth window, and the last hour in full. The folder is kept: a later run adds what has passed since, and
begins anew after a day, when another size is asked for, and when this file has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aurora_web.supervisor.services import Services
from tests.bench.ring import REPO

BUSY = "busy"
DOMAINS = ("chat", "explain_code", "extract_json", "sql", "write_code")
KEPT_DAYS = 28  # of windows: four times the traces' retention
TRACE_DAYS = 7
SLICE_SECONDS = 6000  # from one training slice of a target to the next
MARK = "filled.json"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is filled in."""

    num_targets: int = 50
    num_versions: int = 500
    num_busy_versions: int = 108
    busy_every: int = 10  # seconds between the windows of the busy target
    other_every: int = 200
    num_traces: int = 1_000_000
    num_audit_events: int = 100_000


FULL = Size()
QUICK = Size(
    num_targets=10, num_versions=60, num_busy_versions=24, busy_every=100, other_every=2000, num_traces=50_000,
    num_audit_events=5_000,
)  # fmt: skip

# Six rows a window: each domain under the version of that time, and the control of one domain.
WINDOWS = """
WITH places AS (
    SELECT s.target_id, s.num_versions, to_timestamp(e) AS at, (e / 10)::bigint AS w, r
    FROM (SELECT *, COALESCE(%(every)s, every_seconds) AS every FROM bench_shape) s
    CROSS JOIN LATERAL generate_series((ceil(%(since)s / s.every) * s.every)::bigint, %(until)s::bigint, s.every) e
    CROSS JOIN generate_series(0, 5) r
), drawn AS (
    SELECT *, 2 + (random() * 5)::int AS n, 60 + random() * 60 AS x,
           LEAST(num_versions - 2,
                 1 + floor((extract(epoch FROM at) - %(start)s) / %(span)s * (num_versions - 2)))::int AS v
    FROM places
), measured AS (
    SELECT *, CASE WHEN r = 5 THEN 0 ELSE v END AS version,
           CASE WHEN r = 5 OR w %% 37 = 0 THEN 0 ELSE 4 END AS lookahead,
           1.3 + 0.9 * v / num_versions + 0.1 * (r %% 5) + 0.2 * random() AS length
    FROM drawn
), costed AS (
    SELECT *, CASE WHEN lookahead = 0 THEN 1.0 ELSE length END AS tokens_a_step,
           0.008 * x / (CASE WHEN lookahead = 0 THEN 1.0 ELSE length / 1.25 END) * (0.9 + 0.2 * random()) AS y
    FROM measured
)
INSERT INTO metrics_metricwindow (target_id, started_at, domain, version, lookahead, batch_bucket, num_requests,
    num_verify_steps, num_proposed_drafts, num_correct_drafts, num_accept_tokens, decode_seconds, sum_xx, sum_yy,
    sum_xy)
SELECT target_id, at, (%(domains)s::text[])[1 + CASE WHEN r = 5 THEN w %% 5 ELSE r END], version, lookahead,
       (ARRAY[1, 2, 4])[1 + (w / 6) %% 3], n, (n * x / tokens_a_step)::bigint,
       CASE WHEN lookahead = 0 THEN 0 ELSE (4 * n * x / tokens_a_step)::bigint END,
       (n * x - n * x / tokens_a_step)::bigint, (n * x)::bigint, n * y, n * x * x * 1.02, n * y * y * 1.02,
       n * x * y * 1.01
FROM costed ON CONFLICT DO NOTHING
"""
CAPTURE = """
INSERT INTO metrics_capturewindow (target_id, started_at, num_traces, num_dropped)
SELECT s.target_id, to_timestamp(e), 20 + (random() * 10)::int, (random() < 0.01)::int
FROM (SELECT *, every_seconds AS every FROM bench_shape) s
CROSS JOIN LATERAL generate_series((ceil(%(since)s / s.every) * s.every)::bigint, %(until)s::bigint, s.every) e
ON CONFLICT DO NOTHING
"""
TRACES = """
INSERT INTO traces_trace (trace_id, started_at, received_at, target_id, segment_id, domain, version, tokens, prompt_len,
    first_state, lookahead, temperature, finish_reason, decode_seconds, steps, num_verify_steps, num_proposed_drafts,
    num_correct_drafts, is_held_out, trained_at, lease_id)
SELECT gen_random_uuid(), at, at + interval '5 seconds', target_id, md5(target_id || '-' || i / 64)::uuid,
       (%(domains)s::text[])[1 + i %% 5],
       CASE WHEN i %% 50 = 0 THEN 0 ELSE LEAST(num_versions - 2,
           1 + floor((extract(epoch FROM at) - %(start)s) / %(span)s * (num_versions - 2)))::int END,
       %(tokens)s, 20, 0, 4, 0, CASE WHEN i %% 4 = 0 THEN 'stop' ELSE 'length' END, 0.2, %(steps)s, 20, 80,
       (random() * random() * 76)::int, i %% 10 = 0, CASE WHEN is_trained THEN at + interval '1 minute' END,
       CASE WHEN is_trained THEN md5('slice-' || target_id || '-' || floor((age - 60) / %(every)s))::uuid END
FROM (
    SELECT *, to_timestamp(%(until)s - age) AS at, i %% 10 > 2 AND age > 60 AS is_trained
    FROM (SELECT s.*, i, i * (%(until)s - %(since)s) / n AS age
          FROM (SELECT *, (%(traces)s * share)::bigint AS n FROM bench_shape) s
          CROSS JOIN LATERAL generate_series(1, s.n) i) numbered
) placed
"""
SEGMENTS = """
INSERT INTO traces_tracesegment (id, target_id, replica, uri, sha256, size_bytes, num_traces, num_tokens, aux_layer_ids,
    hidden_size, dtype, sealed_at, received_at, expired_at)
SELECT segment_id, target_id, 'r1', '/nowhere/' || segment_id, repeat('0', 64), 4000000, count(*), 60 * count(*),
       '{1,3,4}', 32, 'float16', max(started_at), max(received_at),
       CASE WHEN max(started_at) < now() - interval '6 hours' THEN max(started_at) + interval '6 hours' END
FROM traces_trace GROUP BY 1, 2 ON CONFLICT DO NOTHING
"""
# What people and the gate did; times are spread over the 28 days.
DECISIONS = """
INSERT INTO registry_transition (version_id, old, new, reason, actor, at)
SELECT v.id, o.old, o.new, o.why, 'policy', v.created_at + o.nr * interval '3 minutes'
FROM registry_speculatorversion v CROSS JOIN LATERAL (VALUES
    (1, '', 'candidate', 'trained to step ' || v.number * 400), (2, 'candidate', 'passed', 'the gate passed it'),
    (3, 'passed', 'live', 'automatic policy'), (4, 'live', 'retired', 'a newer version went live'))
    AS o (nr, old, new, why)
WHERE o.nr <= CASE v.status WHEN 'retired' THEN 4 WHEN 'live' THEN 3 WHEN 'passed' THEN 2 ELSE 1 END;
INSERT INTO rollouts_approval (version_id, is_approved, actor, reason, at)
SELECT id, true, 'olga', 'better on sql', created_at + interval '8 minutes' FROM registry_speculatorversion
WHERE status IN ('retired', 'live');
INSERT INTO rollouts_swap (target_id, generation, kind, old_number, number, canary_number, actor, at, expected,
    completed_at)
SELECT target_id, number, 'promote', number - 1, number, 0, 'policy', created_at + interval '9 minutes',
       '["r1", "r2", "r3"]', created_at + interval '9 minutes 2 seconds'
FROM registry_speculatorversion WHERE status IN ('retired', 'live');
INSERT INTO rollouts_swaparrival (swap_id, replica, version, at, swap_ms)
SELECT s.id, 'r' || r, s.number, s.at + r * interval '600 milliseconds', 2.0
FROM rollouts_swap s, generate_series(1, 3) r;
INSERT INTO rollouts_alert (target_id, replica, rule, state, subject, detail, since, fired_at, ended_at)
SELECT s.target_id, CASE WHEN i %% 2 = 0 THEN 'r1' ELSE '' END,
       (ARRAY['accept_length_fell', 'replica_behind', 'capture_broken', 'trainer_stalled'])[1 + i %% 4], 'resolved', '',
       'accept length 1.42 over 12,000 steps, below 1.60', now() - i * interval '5 hours',
       now() - i * interval '5 hours' + interval '1 minute', now() - i * interval '5 hours' + interval '30 minutes'
FROM bench_shape s, generate_series(1, 100) i;
INSERT INTO rollouts_alert (target_id, replica, rule, state, subject, detail, since, fired_at)
SELECT target_id, 'r3', 'swap_failed', 'firing', '', 'v3 was refused: checksum', now() - interval '1 hour',
       now() - interval '59 minutes' FROM bench_shape WHERE target_id %% 7 = 0;
INSERT INTO accounts_auditevent (at, actor, action, subject, target_slug, reason, detail, request_id)
SELECT now() - i * interval '28 days' / %(events)s, (ARRAY['olga', 'ada', 'policy', 'supervisor'])[1 + i %% 4],
       (ARRAY['target.settings', 'version.approve', 'training.pause', 'training.resume'])[1 + i %% 4],
       t.slug || CASE WHEN i %% 4 = 1 THEN ' v' || 1 + i %% 7 ELSE '' END, t.slug, 'weekly review',
       '{"old": {"min_gain": 0.01}, "new": {"min_gain": 0.02}}', md5(i::text)
FROM generate_series(1, %(events)s) i
JOIN (SELECT slug, row_number() OVER (ORDER BY slug) - 1 AS place FROM registry_target) t
  ON t.place = i %% (SELECT count(*) FROM registry_target);
INSERT INTO training_trainingslice (id, run_id, state, is_day_zero, num_fresh, num_replay, num_held_out, num_missing,
    queued_at, started_at, heartbeat_at, finished_at, error, requested_by)
SELECT md5('slice-' || r.target_id || '-' || i)::uuid, r.id, CASE WHEN i %% 50 = 49 THEN 'failed' ELSE 'done' END,
       false, 128, 256, 60, 0, at, at, at + interval '8 seconds', at + interval '9 seconds',
       CASE WHEN i %% 50 = 49 THEN 'out of memory' ELSE '' END, ''
FROM training_trainingrun r, generate_series(0, 400) i,
     LATERAL (SELECT to_timestamp(%(until)s - 60 - i * %(every)s) AS at) t;
UPDATE training_trainingslice s SET version_id = made.version_id FROM (
    SELECT DISTINCT ON (v.id) v.id AS version_id, t.id
    FROM registry_speculatorversion v JOIN training_trainingrun r USING (target_id)
    JOIN training_trainingslice t ON t.run_id = r.id AND t.state = 'done' AND t.finished_at <= v.created_at
    ORDER BY v.id, t.finished_at DESC
) made WHERE s.id = made.id;
INSERT INTO training_progresspoint (run_id, at, step, num_tokens, loss, tokens_per_second, phase)
SELECT r.id, now() - i * interval '28 days' / 10000, 10000 - i, (10000 - i) * 500, 2 + i / 4000.0, 900, 'train'
FROM training_trainingrun r, generate_series(1, 10000) i;
"""
COUNT_ROWS = """
INSERT INTO metrics_countrow (id, target_id, replica, started_at, ended_at, received_at, rolled_up_at, domain, version,
    lookahead, batch_bucket, num_requests, num_verify_steps, num_proposed_drafts, num_correct_drafts, num_accept_tokens,
    decode_seconds, sum_xx, sum_yy, sum_xy)
SELECT gen_random_uuid(), w.target_id, 'r1', w.started_at, w.started_at + interval '9 seconds',
       w.started_at + interval '10 seconds', now(), domain, version, lookahead, batch_bucket, num_requests,
       num_verify_steps, num_proposed_drafts, num_correct_drafts, num_accept_tokens, decode_seconds, sum_xx, sum_yy,
       sum_xy
FROM metrics_metricwindow w WHERE w.started_at >= to_timestamp(%(since)s)
"""
MARK_HOURS = """
INSERT INTO metrics_rolluphour (target_id, started_at, is_fresh)
SELECT DISTINCT target_id, to_timestamp(floor(extract(epoch FROM started_at) / 3600) * 3600), false
FROM metrics_metricwindow WHERE started_at >= to_timestamp(%(since)s)
ON CONFLICT (target_id, started_at) DO UPDATE SET is_fresh = false
"""
TOTALS = """
INSERT INTO metrics_tokentotal (target_id, domain, num_accept_tokens)
SELECT target_id, domain, sum(num_accept_tokens) FROM metrics_metricwindow GROUP BY 1, 2
ON CONFLICT (target_id, domain) DO UPDATE SET num_accept_tokens = excluded.num_accept_tokens
"""
CAPTURE_HOURS = """
INSERT INTO metrics_capturehour (target_id, started_at, num_traces, num_dropped)
SELECT target_id, to_timestamp(floor(extract(epoch FROM started_at) / 3600) * 3600), sum(num_traces), sum(num_dropped)
FROM metrics_capturewindow
GROUP BY 1, 2 ON CONFLICT (target_id, started_at)
DO UPDATE SET num_traces = excluded.num_traces, num_dropped = excluded.num_dropped
"""
SHAPE = """
CREATE TABLE IF NOT EXISTS bench_shape
    (target_id bigint, every_seconds bigint, num_versions int, share float8, is_busy bool)
"""


@contextmanager
def full_database(folder: Path, size: Size) -> Iterator[Services]:
    """Postgres and Valkey with everything in it, and this process's environment and Django set up for them."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    if not _is_usable(folder, size):
        shutil.rmtree(folder / "postgres", ignore_errors=True)
        (folder / MARK).unlink(missing_ok=True)
    services = Services(folder, folder / "logs")
    services.start()
    try:
        os.environ |= environment(folder, services)
        import django

        django.setup()
        _fill_up(folder, size)
        yield services
    finally:
        services.stop()


def environment(folder: Path, services: Services) -> dict[str, str]:
    """What a process of this console needs."""
    return {
        "AURORA_STATE_DIR": str(folder),
        "DATABASE_URL": services.database_url,
        "REDIS_URL": services.redis_url,
        "DJANGO_SETTINGS_MODULE": "aurora_web.settings",
        "PYTHONPATH": f"{REPO}:{REPO / 'kernels'}",
    }


def _is_usable(folder: Path, size: Size) -> bool:
    if not (folder / MARK).exists():
        return False
    mark = json.loads((folder / MARK).read_text())
    is_same = mark["size"] == asdict(size) and mark.get("filled_by") == _digest()
    return is_same and time.time() - mark["start"] < (KEPT_DAYS + 1) * 86400


def _digest() -> str:
    """Of what fills the database."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def _fill_up(folder: Path, size: Size) -> None:
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0)
    began, now = time.perf_counter(), time.time()
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        if (folder / MARK).exists():
            mark = json.loads((folder / MARK).read_text())
            _partitions(now)
            _counts(cursor, mark["start"], mark["until"], now)
            roll_up_all()
        else:
            mark = {"size": asdict(size), "filled_by": _digest(), "start": now - KEPT_DAYS * 86400}
            fill(cursor, size, now)
            cursor.execute("VACUUM (ANALYZE)")
            roll_up_all()
            cursor.execute("VACUUM (ANALYZE)")
    (folder / MARK).write_text(json.dumps(mark | {"until": now}))
    print(
        f"database ready after {time.perf_counter() - began:.0f} s: {json.dumps(sizes())}", file=sys.stderr, flush=True
    )


def fill(cursor: Any, size: Size, now: float) -> None:
    """Everything up to ``now``, Unix seconds, into a database with our tables and nothing in them."""
    start = now - KEPT_DAYS * 86400
    _partitions(now)
    cursor.execute(SHAPE)
    _people_and_versions(cursor, size, now)
    _counts(cursor, start, start, now)
    _traces(cursor, size, start, now)
    cursor.execute(DECISIONS, {"events": size.num_audit_events, "until": now, "every": SLICE_SECONDS})


def _partitions(now: float) -> None:
    from aurora_web.traces.services import create_partitions

    create_partitions(datetime.fromtimestamp(now, UTC) - timedelta(days=TRACE_DAYS + 2), days_ahead=TRACE_DAYS + 5)


def roll_up_all() -> None:
    """What the beat would have done long ago."""
    from django.utils import timezone

    from aurora_web.metrics import rollups

    while rollups.refresh(timezone.now(), 1000):
        pass


def _counts(cursor: Any, start: float, since: float, until: float) -> None:
    given = {"start": start, "span": KEPT_DAYS * 86400.0, "domains": list(DOMAINS)}
    cursor.execute(WINDOWS, given | {"since": since, "until": until, "every": None})
    cursor.execute(WINDOWS, given | {"since": max(since, until - 3600), "until": until, "every": 10})
    cursor.execute(MARK_HOURS, {"since": since})
    cursor.execute(TOTALS)
    cursor.execute(CAPTURE, {"since": since, "until": until})
    cursor.execute(CAPTURE_HOURS)
    cursor.execute(COUNT_ROWS, {"since": max(since, until - 86400)})


def _traces(cursor: Any, size: Size, start: float, until: float) -> None:
    from aurora_web.traces.codec import pack_steps

    pairs = [(i % 3, [1, 2, 3, 4]) for i in range(20)]
    given = {
        "start": start,
        "span": KEPT_DAYS * 86400.0,
        "domains": list(DOMAINS),
        "tokens": [i * 7 % 61 for i in range(60)],
        "steps": pack_steps(pairs),
        "traces": size.num_traces,
        "since": until - TRACE_DAYS * 86400,
        "until": until,
        "every": SLICE_SECONDS,
    }
    cursor.execute(TRACES, given)
    cursor.execute(SEGMENTS)


def _people_and_versions(cursor: Any, size: Size, now: float) -> None:
    from aurora_web.accounts.models import User
    from aurora_web.registry.models import Target

    for name, role in (("ada", "admin"), ("olga", "operator"), ("vera", "viewer")):
        User.objects.create(username=name, role=role)
    shape = {"architecture": "LlamaForCausalLM", "num_layers": 8, "hidden_size": 32, "vocab_size": 61}
    rest = (size.num_versions - size.num_busy_versions) // (size.num_targets - 1)
    for i in range(size.num_targets):
        slug = BUSY if i == 0 else f"target-{i:02d}"
        target = Target.objects.create(slug=slug, name=slug.title(), created_by="olga", path="/nowhere", **shape)
        num_versions = size.num_busy_versions if i == 0 else rest
        every, share = (size.busy_every, 0.4) if i == 0 else (size.other_every, 0.6 / (size.num_targets - 1))
        row = [target.pk, every, num_versions, share, i == 0]
        cursor.execute("INSERT INTO bench_shape VALUES (%s, %s, %s, %s, %s)", row)
        _versions(target, num_versions, now, is_waiting=i % 5 == 0)


def _versions(target: Any, count: int, now: float, is_waiting: bool) -> None:
    """Versions of a target over the 28 days, one live, the newest a candidate or waiting; a deployment and replicas."""
    from django.utils import timezone

    from aurora_web.registry.models import ApprovalPolicy, SpeculatorVersion
    from aurora_web.rollouts.gate import DomainVerdict
    from aurora_web.rollouts.models import Deployment, GateDecision, Replica
    from aurora_web.training.models import TrainingRun

    statuses = ["retired"] * (count - 2) + ["live", "passed" if is_waiting else "candidate"]
    if is_waiting:
        target.approval = ApprovalPolicy.MANUAL
        target.save(update_fields=["approval"])
    made: list[Any] = []
    for number, status in enumerate(statuses, 1):
        age = (1 - (number - 1) / count) * KEPT_DAYS * 86400
        made.append(
            SpeculatorVersion.objects.create(
                target=target, number=number, parent=made[-1] if made else None, status=status, uri="/nowhere",
                sha256=f"{number:064x}", size_bytes=9_000_000, config={"hidden_size": 32, "num_layers": 1},
                provenance={"seed": 0, "step": number * 400, "torch": "2.13.0"}, report=_report(number),
                created_at=datetime.fromtimestamp(now - age, UTC),
            )
        )  # fmt: skip
    domains = [asdict(DomainVerdict(d, 12, 1.5, 1.45, 0.03, False, 0.01, 0.05)) for d in DOMAINS]
    GateDecision.objects.bulk_create(
        GateDecision(version=v, passed=True, reasons=["It gains 3 %."], domains=domains, policy={}, gain=0.03,
                     gain_low=0.01, gain_high=0.05, at=v.created_at, live_number=v.number - 1)
        for v in made if v.status != "candidate"
    )  # fmt: skip
    live = made[-2]
    Deployment.objects.create(
        target=target, desired=live, previous=made[-3] if count > 2 else None, generation=live.number
    )
    moment = timezone.now()
    Replica.objects.bulk_create(
        Replica(target=target, name=f"r{r}", engine="aurora-embedded 0.1", url="http://127.0.0.1:1",
                generation=live.number, version=live.number, sha256=live.sha256, state="serving", swap_ms=2.0,
                probe_accept_length=2.0, probe_num_steps=64, num_running=4, num_dropped_traces=0,
                spool_bytes=0, reported_at=moment, seen_at=moment)
        for r in (1, 2, 3)
    )  # fmt: skip
    TrainingRun.objects.create(
        target=target, step=count * 400, num_tokens=10**6, loss=2.0, phase="train", reported_at=moment
    )


def _report(number: int) -> dict[str, Any]:
    from speculators.records import DomainScore, EvalReport

    def score(domain: str, length: float) -> DomainScore:
        n, steps = 12, 20
        tokens = length * steps
        return DomainScore(
            domain=domain, num_traces=n, num_verify_steps=n * steps, num_correct_drafts=round(n * (tokens - steps)),
            num_accept_tokens=round(n * tokens), num_proposed_drafts=n * steps * 4, sum_xx=n * tokens**2 * 1.02,
            sum_yy=float(n * steps**2), sum_xy=n * tokens * steps,
        )  # fmt: skip

    length = 1.3 + 0.01 * number
    return EvalReport(
        candidate=tuple(score(d, length) for d in DOMAINS), live=tuple(score(d, length - 0.01) for d in DOMAINS),
        lookahead=4, loss=2.0, seconds=1.0,
    ).to_json()  # fmt: skip


def sizes() -> dict[str, int]:
    """Rows of the large tables, and the bytes of the database."""
    from django.db import connection

    tables = {
        "targets": "registry_target", "versions": "registry_speculatorversion", "windows": "metrics_metricwindow",
        "count_rows": "metrics_countrow", "traces": "traces_trace", "audit_events": "accounts_auditevent",
        "alerts": "rollouts_alert",
    }  # fmt: skip
    found = {}
    with connection.cursor() as cursor:
        for name, table in tables.items():
            cursor.execute(f"SELECT count(*) FROM {table}")
            found[name] = int(cursor.fetchone()[0])
        cursor.execute("SELECT pg_database_size(current_database())")
        found["bytes"] = int(cursor.fetchone()[0])
    return found
