"""How long things are kept: the environment's values, an admin's, and that the jobs follow."""

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.accounts.models import AuditEvent
from aurora_web.metrics import services as metrics
from aurora_web.metrics.models import MetricWindow
from aurora_web.retention import services
from aurora_web.retention.services import RetentionError, change, kept
from aurora_web.traces import services as traces
from aurora_web.traces.models import TraceSegment

pytestmark = pytest.mark.django_db
JSON = {"content_type": "application/json"}


def test_the_environment_is_the_default_and_comes_back(settings):
    settings.TRACE_DAYS, settings.KEEP_VERSIONS = 9, 30
    assert (kept().trace_days, kept().num_versions) == (9, 30)
    change({"trace_days": 12, "num_versions": 40}, "ada", is_confirmed=False)
    assert (kept().trace_days, kept().num_versions) == (12, 40)
    change({"trace_days": None}, "ada", is_confirmed=True)
    assert (kept().trace_days, kept().num_versions) == (9, 40)
    newest, first = AuditEvent.objects.filter(action="retention.change")
    assert first.after == {"trace_days": 12, "num_versions": 40}
    assert (newest.before, newest.after) == ({"trace_days": 12}, {"trace_days": None})


def test_nothing_is_deleted_by_a_slip():
    with pytest.raises(RetentionError, match="traces and loss charts: from 7 down to 1 days"):
        change({"trace_days": 1}, "ada", is_confirmed=False)
    assert kept().trace_days == 7
    assert change({"trace_days": 1}, "ada", is_confirmed=True).trace_days == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"trace_days": 0}, "trace_days is 0: expected 1 to 3650 days"),
        ({"trace_days": True}, "is True: expected 1"),
        ({"trace_days": float("nan")}, "is nan: expected 1"),
        ({"num_versions": 2.5}, "is 2.5: expected a whole number"),
        ({"soup": 3}, "'soup' is unknown: expected one of trace_days"),
    ],
)
def test_a_wrong_value_is_named(given, words):
    with pytest.raises(RetentionError, match=words):
        change(given, "ada", is_confirmed=True)
    assert not AuditEvent.objects.filter(action="retention.change").exists()


def test_the_jobs_follow(target, settings, tmp_path):
    settings.SEGMENTS_DIR = tmp_path
    now = timezone.now()
    window = {"target": target, "domain": "sql", "version": 1, "lookahead": 4, "batch_bucket": 1}
    window |= dict.fromkeys(metrics.SUMMED, 1)
    for days in (3, 40):
        MetricWindow.objects.create(**window, started_at=now - timedelta(days=days))
    file = tmp_path / "s.safetensors"
    file.write_bytes(b"x")
    TraceSegment.objects.create(
        id="00000000-0000-0000-0000-000000000001",
        target=target,
        uri=str(file),
        sealed_at=now - timedelta(hours=7),
        num_traces=1,
        num_tokens=1,
        size_bytes=1,
        aux_layer_ids=[1],
        hidden_size=8,
    )
    change({"segment_hours": 8, "figure_days": 50}, "ada", is_confirmed=True)
    metrics.forget(now)
    assert (MetricWindow.objects.count(), traces.expire_segments(now), file.exists()) == (2, 0, True)
    change({"segment_hours": 6.5, "figure_days": 30}, "ada", is_confirmed=True)
    metrics.forget(now)
    assert (MetricWindow.objects.count(), traces.expire_segments(now), file.exists()) == (1, 1, False)


def test_day_partitions_follow(target):
    now = timezone.now()
    traces.create_partitions(now - timedelta(days=5), days_ahead=0)
    name = f"traces_trace_{now - timedelta(days=5):%Y%m%d}"
    assert name not in traces.drop_old_partitions(now)
    change({"trace_days": 2}, "ada", is_confirmed=True)
    assert name in traces.drop_old_partitions(now)


def test_the_page_says_how_often_the_jobs_that_delete_run(clients, settings):
    page = clients["viewer"].get("/settings/retention/").content.decode()
    said = (("traces.maintain", "minute (traces, hidden states)", 60), ("metrics.forget", "ten minutes (figures)", 600),
            ("rollouts.reconcile", "ten seconds (files of drafts)", 10))  # fmt: skip
    for task, words, seconds in said:
        assert settings.CELERY_BEAT_SCHEDULE[task]["schedule"] == seconds and f"every {words}" in page


def test_the_page_keeps_what_was_typed_and_asks_before_it_deletes(clients):
    admin = clients["admin"]
    given = {"trace_days": "3", "segment_hours": "", "figure_days": "", "num_versions": "", "reason": "disk"}
    page = admin.post("/settings/retention/", given)
    assert page.status_code == 422
    assert "This deletes for ever (traces and loss charts: from 7 down to 3 days): confirm it." in page.content.decode()
    assert 'value="3"' in page.content.decode()
    assert admin.post("/settings/retention/", {**given, "is_confirmed": "on"}).status_code == 302
    assert services.chosen()["trace_days"] == 3
    assert AuditEvent.objects.get(action="retention.change").reason == "disk"
    assert "set by an admin" in clients["viewer"].get("/settings/retention/").content.decode()
    wrong = admin.post("/settings/retention/", {**given, "trace_days": "many"})
    assert "Expected a number from 1 to 3650." in wrong.content.decode()
    assert "an admin" in clients["viewer"].get("/system/").content.decode()


def test_the_answer_is_as_documented(ask):
    changed = ask("PATCH", "/retention", {"segment_hours": 8})
    assert ask("GET", "/retention") == changed
    assert json.dumps(changed) == json.dumps(services.payload())  # a whole number stays one
    assert (changed["segment_hours"]["chosen"], changed["num_versions"]["chosen"]) == (8, None)


def test_the_api(client, bearer):
    headers = bearer("admin")
    refused = client.patch("/api/v1/retention", json.dumps({"trace_days": 3}), **JSON, **headers)
    assert (refused.status_code, refused.json()["field"]) == (422, "is_confirmed")
    body = json.dumps({"trace_days": 3, "is_confirmed": True})
    assert client.patch("/api/v1/retention", body, **JSON, **headers).json()["trace_days"]["value"] == 3
    assert client.patch("/api/v1/retention", '{"figure_days": 99}', **JSON, **headers).status_code == 200
    found = client.get("/api/v1/retention", **bearer("viewer")).json()
    assert (found["trace_days"]["chosen"], found["trace_days"]["default"]) == (3, 7)  # what was not named stays
