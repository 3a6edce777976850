"""What is answered about a target's state and events, and about its versions, against the API's document."""

import pytest
from django.utils import timezone

from aurora_web.metrics import services as metrics
from aurora_web.registry.models import ApprovalPolicy, Target
from aurora_web.rollouts import services
from aurora_web.rollouts.models import GateDecision
from aurora_web.snapshots import target_snapshot
from aurora_web.traces import services as traces
from aurora_web.training.models import SliceState, TrainingRun, TrainingSlice
from tests.unit.aurora_web.conftest import segment_payload
from tests.unit.aurora_web.documented import as_json

pytestmark = pytest.mark.django_db
VERSION = "/targets/{slug}/versions/{number}"


@pytest.fixture
def in_use(target, canary, measured):
    """A canary that has measured something, an alert, and a run whose slice works."""
    measured(0.5, 0.6)
    metrics.roll_up()
    now = timezone.now()
    target.alerts.create(rule="replica_behind", state="firing", detail="late", since=now, fired_at=now)
    run = TrainingRun.objects.create(target=target, step=7, loss=1.5, phase="train", reported_at=now)
    TrainingSlice.objects.create(run=run, state=SliceState.RUNNING, started_at=now)
    return canary


def test_the_state_is_what_the_page_shows(ask, target, in_use):
    found = ask("GET", "/targets/{slug}/state", slug="demo")
    expected = as_json(target_snapshot(target))
    for name in ("versions", "gate", "replicas", "deployment", "alerts", "run"):
        assert found[name] == expected[name]
        assert found[name]
    assert (found["canary"]["domains"][0]["domain"], len(found["steps"])) == ("sql", 6)
    assert any(verdict["domains"] for verdict in found["gate"])


def test_a_verdict_of_before_its_later_fields_is_answered_as_it_was_kept(ask, judged, report):
    judged()
    version = judged(report({"sql": (2.0, 1.0)}))
    kept = {"domain": "sql", "num_traces": 9, "accept_length": 2, "live_accept_length": 1, "gain": 1, "is_worse": False}
    GateDecision.objects.filter(version=version).update(domains=[kept])
    assert ask("GET", "/targets/{slug}/state", slug="demo")["gate"][0]["domains"] == [kept]


def test_events_are_sentences(ask, in_use):
    found = ask("GET", "/targets/{slug}/events", slug="demo")
    assert {"swap", "candidate", "canary", "alert"} <= {event["kind"] for event in found}


@pytest.fixture
def on_disk(target, judged, report, settings, tmp_path):
    """v2, live by a person's word, learnt from 4 traces, with a file on this disk; v1 was live before it."""
    settings.VERSIONS_DIR = tmp_path
    judged()
    Target.objects.update(approval=ApprovalPolicy.MANUAL)
    version = judged(report({"sql": (2.0, 1.0)}))
    services.approve(version, "ada", "good")
    (tmp_path / version.uri).mkdir(parents=True)
    (tmp_path / version.uri / "config.json").write_text("{}")
    run, now = TrainingRun.objects.create(target=target), timezone.now()
    piece = TrainingSlice.objects.create(
        run=run, state=SliceState.DONE, version=version, started_at=now, finished_at=now
    )
    traces.ingest_segment(segment_payload(30))
    traces.acknowledge(piece.pk, traces.lease_fresh(target, piece.pk, 4, 60), [])
    return version


def test_a_version_with_everything_that_happened_to_it(ask, on_disk):
    found = ask("GET", VERSION, slug="demo", number=2)
    assert found["learnt"]["domains"] == {"sql": 4}
    assert [each["actor"] for each in found["approvals"]] == ["ada"]
    assert [each["name"] for each in found["files"]] == ["config.json"]
    assert [each["new"] for each in found["transitions"]][:2] == ["live", "passed"]
    assert found["served"][0]["end"] is None
    assert {row["metric"] for row in found["gate"]["rows"]} == {"Accept length", "Accept rate"}
    assert ask("GET", VERSION, slug="demo", number=1)["learnt"] is None
