"""manage.py versions, approve, rollback and export, as scripts use them."""

import csv
import io
import json

import pytest
from django.core.management import CommandError, call_command

from aurora_web.accounts.models import AuditEvent
from aurora_web.metrics import services as metrics
from aurora_web.registry.models import Target
from aurora_web.traces import payloads
from aurora_web.traces import services as traces
from tests.unit.aurora_web.conftest import count_window, segment_payload

pytestmark = pytest.mark.django_db


def run(*args):
    out = io.StringIO()
    call_command(*args, stdout=out)
    return out.getvalue()


@pytest.fixture
def waiting(target, judged, report):
    """v1 live, v2 passed."""
    Target.objects.update(approval="manual")
    judged()
    return judged(report({"sql": (2.0, 1.0)}))


def test_approve_and_roll_back(waiting):
    assert [line.split("\t")[:3] for line in run("versions", "demo").splitlines()] == [
        ["v2", "passed", "2.00"], ["v1", "live", "-"],
    ]  # fmt: skip
    assert run("approve", "demo", "v2", "--reason", "night build") == "2\n"
    with pytest.raises(CommandError, match="demo v2 is live"):
        run("approve", "demo", "2", "--reason", "again")
    with pytest.raises(CommandError, match="not passed any more"):
        run("approve", "demo", "2", "--reason", "again", "--expected-status", "passed")
    assert run("rollback", "demo", "--reason", "slow") == "v1\n"
    event = AuditEvent.objects.get(action="version.rollback")
    assert (event.actor, event.reason, event.changes) == ("manage.py", "slow", [("live", 2, 1)])
    found = [json.loads(line) for line in run("versions", "demo", "--json", "--status", "live").splitlines()]
    assert [row["number"] for row in found] == [1]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["versions", "nobody"], "there is no target 'nobody'"),
        (["versions", "demo", "--limit", "0"], "--limit is 0"),
        (["versions", "demo", "--limit", "1" + "0" * 22], "expected 1 to 100,000"),
        (["export", "audit", "--since", "9999-12-31T23:59:59-23:59"], "expected a time like"),
        (["approve", "demo", "9", "--reason", "x"], "demo has no version 9"),
        (["rollback", "demo", "--reason", "x"], "demo has no live version"),
        (["export", "metrics"], "export metrics needs --target"),
        (["export", "audit", "--since", "soon"], "since is 'soon'"),
        (["export", "traces"], "export traces needs --target"),
        (["export", "traces", "--target", "demo", "--since", "soon"], "since"),
        (["export", "traces", "--target", "demo", "--format", "csv"], "no line of a table"),
    ],
)
def test_what_is_wrong_is_named(target, args, named):
    with pytest.raises(CommandError, match=named):
        run(*args)


def test_exports(waiting):
    metrics.ingest_counts({"counts": [count_window(domain="=sql").to_json()]})
    metrics.roll_up()
    [window] = csv.DictReader(io.StringIO(run("export", "metrics", "--target", "demo")))
    assert (window["domain"], window["num_requests"]) == ("'=sql", "20")
    versions = [
        json.loads(line) for line in run("export", "versions", "--target", "demo", "--format", "jsonl").splitlines()
    ]
    assert [row["number"] for row in versions] == [2, 1]
    audit = list(csv.DictReader(io.StringIO(run("export", "audit", "--target", "demo"))))
    assert "target.register" in [row["action"] for row in audit]


def test_traces_are_exported_in_pieces_redacted_unless_asked_and_told(target, monkeypatch):
    monkeypatch.setattr(payloads, "CHUNK", 2)
    traces.ingest_segment(segment_payload(5))
    lines = [json.loads(line) for line in run("export", "traces", "--target", "demo").splitlines()]
    assert len({line["trace_id"] for line in lines}) == 5
    assert {(line["is_redacted"], line["prompt"], line["prompt_text"]) for line in lines} == {(True, None, None)}
    [first, *_] = run("export", "traces", "--target", "demo", "--since", "2020-01-01T00:00", "--text").splitlines()
    assert (json.loads(first)["prompt"], json.loads(first)["prompt_text"]) == ([1, 2], "w1 w2")
    assert run("export", "traces", "--target", "demo", "--since", "2100-01-01T00:00") == ""
    told = AuditEvent.objects.filter(action="trace.export").order_by("pk")
    assert [(row.actor, row.detail["has_text"], row.detail["num_traces"]) for row in told] == [
        ("manage.py", False, 5), ("manage.py", True, 5), ("manage.py", False, 0),
    ]  # fmt: skip
