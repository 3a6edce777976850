"""The state of the installation: workers, queues, beat, database, directories, retention, versions.

What does not answer is said, never guessed. The slow questions (workers, directories) are remembered for a while.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import redis
from celery.exceptions import CeleryError
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.db.models import QuerySet
from django.utils import timezone
from kombu.exceptions import KombuError

from aurora_web.celery import app
from aurora_web.registry.models import Target
from aurora_web.retention import services as kept
from aurora_web.rollouts.models import Replica
from aurora_web.training.models import SliceState, TrainingSlice

BEAT_KEY = "aurora.beat"
BEAT_SECONDS = 5.0  # how often beat notes that it lives (settings.CELERY_BEAT_SCHEDULE)
LATE_SECONDS = 20.0
QUEUES = ("default", "gpu")
INSPECT_SECONDS = 0.6
REMEMBER_SECONDS = 15
MAX_FILES = 20_000
WALK_SECONDS = 0.5
PACKAGES = ("Django", "celery", "channels", "django-ninja", "psycopg", "redis", "uvicorn", "tokenizers")


@dataclass(frozen=True, slots=True)
class Worker:
    """A Celery worker that answered."""

    name: str
    queues: tuple[str, ...]
    num_active: int
    active: tuple[str, ...]  # names of the tasks that run


@dataclass(frozen=True, slots=True)
class Queue:
    """Messages that no worker has taken yet."""

    name: str
    num_waiting: int
    num_workers: int  # that answered and take from it


@dataclass(frozen=True, slots=True)
class Directory:
    """Bytes below a directory; ``is_partial`` when counting stopped at its bound."""

    name: str
    path: str
    num_files: int
    num_bytes: int
    is_partial: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Processes:
    """What the broker and the workers say; ``problem`` when they cannot be asked."""

    at: float  # Unix seconds of the asking
    problem: str = ""
    workers: tuple[Worker, ...] = ()
    queues: tuple[Queue, ...] = ()
    beat_age_seconds: float | None = None  # since beat's last task was run; None = it was never heard of
    broker_version: str = ""
    directories: tuple[Directory, ...] = field(default=())

    @property
    def is_beat_late(self) -> bool:
        return self.beat_age_seconds is None or self.beat_age_seconds > LATE_SECONDS


def note_beat() -> None:
    """Beat's own task: it was sent, taken and run just now."""
    with _broker() as client:
        client.set(BEAT_KEY, repr(time.time()))


def processes() -> Processes:
    """Workers, queues, beat and directories; an answer is kept for REMEMBER_SECONDS."""
    found = cache.get("system.processes")
    if not isinstance(found, Processes):
        found = _ask()
        cache.set("system.processes", found, REMEMBER_SECONDS)
    return found


def _broker() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2)


def _ask() -> Processes:
    directories = tuple(_directories())
    now = time.time()
    try:
        with _broker() as client:
            lengths: dict[str, Any] = {name: client.llen(name) for name in QUEUES}
            noted: Any = client.get(BEAT_KEY)
            info: Any = client.info("server")
        workers = _workers()
    except (redis.RedisError, OSError, KombuError, CeleryError) as error:
        return Processes(at=now, problem=f"the broker does not answer: {error}", directories=directories)
    queues = [Queue(n, int(lengths[n]), sum(n in worker.queues for worker in workers)) for n in QUEUES]
    return Processes(
        at=now,
        workers=tuple(workers),
        queues=tuple(queues),
        beat_age_seconds=max(0.0, now - float(noted)) if noted else None,
        broker_version=str(info.get("valkey_version") or info.get("redis_version", "")),
        directories=directories,
    )


def _workers() -> list[Worker]:
    """Who answers within INSPECT_SECONDS."""
    inspect = app.control.inspect(timeout=INSPECT_SECONDS)
    queues: dict[str, list[dict[str, Any]]] = inspect.active_queues() or {}
    running: dict[str, list[dict[str, Any]]] = (inspect.active() or {}) if queues else {}
    return [
        Worker(
            name,
            tuple(sorted(queue["name"] for queue in taken)),
            len(running.get(name, [])),
            tuple(task["name"] for task in running.get(name, [])),
        )
        for name, taken in sorted(queues.items())
    ]


def _directories() -> Iterator[Directory]:
    places = {
        "hidden states": settings.SEGMENTS_DIR,
        "versions": settings.VERSIONS_DIR,
        "training": settings.TRAINING_DIR,
        "logs": settings.STATE_DIR / "logs",
    }
    for name, path in places.items():
        yield measure(name, Path(path))


def measure(name: str, path: Path, max_files: int = MAX_FILES) -> Directory:
    """Add the files below ``path`` up, for WALK_SECONDS and ``max_files`` at most."""
    num_files = num_bytes = 0
    until = time.monotonic() + WALK_SECONDS
    if not path.is_dir():
        return Directory(name, str(path), 0, 0, False, "not there yet")
    for folder, _, files in os.walk(path):
        for file in files:
            if num_files >= max_files or time.monotonic() > until:
                return Directory(name, str(path), num_files, num_bytes, True)
            try:
                num_bytes += os.lstat(os.path.join(folder, file)).st_size
            except OSError:
                continue  # deleted since
            num_files += 1
    return Directory(name, str(path), num_files, num_bytes, False)


_TABLES = """
SELECT c.relname, pg_total_relation_size(c.oid),
  coalesce(nullif(c.reltuples, -1), pg_stat_get_live_tuples(c.oid))::bigint, i.inhparent IS NOT NULL
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
WHERE c.relkind = 'r' AND n.nspname = current_schema() ORDER BY 2 DESC, 1 LIMIT 500
"""


def database() -> dict[str, Any]:
    """Version, size, tables and day partitions; row numbers are Postgres' own estimates."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version'), pg_database_size(current_database())")
        server, num_bytes = cursor.fetchone()
        cursor.execute(_TABLES)
        rows = cursor.fetchall()
    names = ("name", "num_bytes", "num_rows")
    tables = [dict(zip(names, row, strict=False)) for row in rows if not row[3]]
    partitions = sorted((dict(zip(names, row, strict=False)) for row in rows if row[3]), key=lambda p: str(p["name"]))
    return {"version": server, "num_bytes": num_bytes, "tables": tables[:20], "partitions": partitions}


def num_busy_trainers() -> int:
    """Slices that told of progress within LATE_SECONDS: their workers live, though they answer only afterwards."""
    return _busy_slices().count()


def busy_since() -> datetime | None:
    """When the oldest of these slices began; None where no trainer is busy."""
    return _busy_slices().order_by("started_at").values_list("started_at", flat=True).first()


def _busy_slices() -> QuerySet[TrainingSlice]:
    heard = timezone.now() - timedelta(seconds=LATE_SECONDS)
    return TrainingSlice.objects.filter(state=SliceState.RUNNING, heartbeat_at__gte=heard)


def retention() -> list[dict[str, Any]]:
    """What is kept for how long, and which variable, or who, says so."""
    own = Target.objects.exclude(trace_days=None).values_list("slug", "trace_days")
    values = [
        {
            "what": line["what"],
            "kept": f"{line['value']:g} {line['unit']}",
            "setting": line["variable"] if line["chosen"] is None else "an admin",
        }
        for line in kept.payload().values()
    ]
    values += [
        {"what": f"traces of {slug}", "kept": f"{days} days", "setting": "the target's settings"} for slug, days in own
    ]
    return [*values, {"what": "audit log", "kept": "for ever", "setting": ""}]


def versions() -> dict[str, str]:
    """What runs here, and the engines that report."""
    found = {"Aurora": settings.CODE_VERSION, "Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def engines() -> list[dict[str, Any]]:
    """Every replica with its engine, the living ones first."""
    rows = Replica.objects.select_related("target").order_by("-is_alive", "target__slug", "name")
    rows = rows.only("name", "engine", "is_alive", "seen_at", "target__slug")[:200]
    return [
        {"target": r.target.slug, "replica": r.name, "engine": r.engine, "is_alive": r.is_alive, "seen_at": r.seen_at}
        for r in rows
    ]
