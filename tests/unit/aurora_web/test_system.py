"""What the system page knows and does not know; the help's glossary and shortcuts."""

import re
import time
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.template.loader import render_to_string
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from aurora_web import system
from aurora_web.rollouts import replicas
from aurora_web.training.models import SliceState, TrainingRun, TrainingSlice

REPO = Path(__file__).resolve().parents[3]


def text(answer):
    return " ".join(answer.content.decode().split())


@pytest.fixture(autouse=True)
def forgotten():
    cache.clear()
    redis.Redis.from_url(settings.REDIS_URL).delete(system.BEAT_KEY)
    yield
    cache.clear()


@pytest.mark.django_db
def test_the_database_shows_partitions_tables_and_sizes(clients, target):
    found = system.database()
    names = [table["name"] for table in found["partitions"]]
    assert "traces_trace_default" in names
    assert (
        sum(re.fullmatch(r"traces_trace_\d{8}", name) is not None for name in names) >= 4
    )  # today and three days ahead
    assert all(table["num_bytes"] > 0 for table in found["tables"])
    page = text(clients["viewer"].get("/system/"))
    assert names[0] in page
    assert "AURORA_TRACE_DAYS" in page
    assert found["version"] in page
    assert "No engine has reported" in page


@pytest.mark.django_db
def test_engines_are_listed_with_what_they_run(clients, target, observed):
    for name in ("r1", "r2", "r3"):
        replicas.observe(observed(replica=name, engine="aurora-embedded 9.9"))
    clients["viewer"].get("/system/")
    with CaptureQueriesContext(connection) as queries:
        page = text(clients["viewer"].get("/system/"))
    assert page.count("aurora-embedded 9.9") == 3
    assert len(queries) < 10


@pytest.mark.django_db
def test_nobody_answers_and_it_is_said(clients):
    page = text(clients["viewer"].get("/system/processes/"))
    assert "No worker answered" in page
    assert page.count("nobody answers") == 2
    assert "beat was never heard of" in page
    assert "hidden states".capitalize() in page


@pytest.mark.django_db
def test_a_trainer_that_is_busy_is_not_called_dead(clients, target):
    run = TrainingRun.objects.create(target=target)
    now = timezone.now()
    TrainingSlice.objects.create(run=run, state=SliceState.RUNNING, started_at=now, heartbeat_at=now)
    page = text(clients["viewer"].get("/system/processes/"))
    assert f"busy with a slice</span> since {now:%H:%M:%S} UTC" in page
    assert page.count("nobody answers") == 1
    TrainingSlice.objects.update(heartbeat_at=now - timedelta(seconds=60))
    assert "busy with a slice" not in text(clients["viewer"].get("/system/processes/"))


@pytest.mark.django_db
def test_beat_is_heard_and_is_late_after_a_while(clients, monkeypatch):
    system.note_beat()
    assert system.processes().is_beat_late is False
    assert "beat runs" in text(clients["viewer"].get("/system/processes/"))
    cache.clear()
    now = time.time()
    monkeypatch.setattr(system.time, "time", lambda: now + 60)
    assert "beat is late" in text(clients["viewer"].get("/system/processes/"))


def test_workers_that_answer_are_shown_with_their_queues(monkeypatch):
    class Inspect:
        def __init__(self, timeout):
            assert timeout == system.INSPECT_SECONDS

        def active_queues(self):
            return {"gpu@host": [{"name": "gpu"}], "celery@host": [{"name": "default"}]}

        def active(self):
            return {"gpu@host": [{"name": "training.run_slice"}]}

    monkeypatch.setattr(system.app.control, "inspect", Inspect)
    redis.Redis.from_url(settings.REDIS_URL).rpush("gpu", "message")
    try:
        found = system.processes()
    finally:
        redis.Redis.from_url(settings.REDIS_URL).delete("gpu")
    assert [(w.name, w.queues, w.active) for w in found.workers] == [
        ("celery@host", ("default",), ()),
        ("gpu@host", ("gpu",), ("training.run_slice",)),
    ]
    assert [(q.name, q.num_waiting, q.num_workers) for q in found.queues] == [("default", 0, 1), ("gpu", 1, 1)]


@pytest.mark.django_db
def test_a_broker_that_is_away_is_said(clients, monkeypatch):
    monkeypatch.setattr(settings, "REDIS_URL", "redis://127.0.0.1:1/0")
    page = text(clients["viewer"].get("/system/processes/"))
    assert "The broker does not answer" in page
    assert "Serving goes on" in page


def test_an_answer_is_kept_for_a_while(monkeypatch):
    first = system.processes()
    monkeypatch.setattr(system, "_ask", lambda: pytest.fail("asked again"))
    assert system.processes() == first


def test_directories_are_added_up_within_a_bound(tmp_path):
    for i in range(5):
        (tmp_path / f"f{i}").write_bytes(b"x" * 100)
    (tmp_path / "link").symlink_to("/dev/zero")
    whole = system.measure("files", tmp_path)
    assert (whole.num_files, whole.is_partial) == (6, False)
    assert 500 <= whole.num_bytes < 600
    part = system.measure("files", tmp_path, max_files=3)
    assert (part.num_files, part.is_partial) == (3, True)
    assert system.measure("files", tmp_path / "nowhere").problem == "not there yet"


@pytest.mark.django_db
def test_the_api_says_the_same(client, bearer):
    found = client.get("/api/v1/system", **bearer("viewer")).json()
    assert found["processes"]["is_beat_late"] is True
    assert {queue["name"] for queue in found["processes"]["queues"]} == {"default", "gpu"}
    assert found["versions"]["Aurora"] == settings.CODE_VERSION


def test_beat_runs_its_own_task():
    entry = settings.CELERY_BEAT_SCHEDULE["system.beat"]
    assert entry["schedule"] == system.BEAT_SECONDS
    system.app.loader.import_default_modules()
    system.app.tasks[entry["task"]]()
    assert redis.Redis.from_url(settings.REDIS_URL).get(system.BEAT_KEY)


def test_the_glossary_has_every_word_of_the_architecture():
    table = (REPO / "docs/architecture.md").read_text().split("## Words")[1]
    words = {
        word
        for line in table.splitlines()
        if line.startswith("| `")
        for word in re.findall(r"`([a-z_]+)`", line.split("|")[1])
    }
    page = render_to_string("console/help.html")
    assert len(words) > 10
    assert [word for word in sorted(words) if not re.search(rf"<dt>[^<]*\b{word}\b", page)] == []


@pytest.mark.django_db
@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_every_shortcut_of_the_help_has_its_link(clients, target, role):
    page = text(clients[role].get("/help/"))
    letters = set(re.findall(r"<kbd>g</kbd> <kbd>(\w)</kbd>", page))
    links = set(re.findall(r'data-go="(\w)"', text(clients[role].get("/targets/demo/"))))
    assert letters == links
    assert "js/shortcuts.js" in page
