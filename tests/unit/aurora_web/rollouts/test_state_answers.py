"""What is answered about a target's state and events, and about its versions, against the API's document."""

import json

import pytest
from django.utils import timezone

from aurora_web.metrics import services as metrics
from aurora_web.registry.models import ApprovalPolicy, SpeculatorVersion, Target
from aurora_web.rollouts import services
from aurora_web.rollouts.comparison import choose, curves_payload
from aurora_web.rollouts.models import GateDecision
from aurora_web.snapshots import target_snapshot
from aurora_web.traces import services as traces
from aurora_web.training.models import SliceState, TrainingRun, TrainingSlice
from tests.unit.aurora_web.conftest import count_window, segment_payload
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
    Target.objects.update(approval=ApprovalPolicy.MANUAL)
    version = judged(report({"sql": (2.0, 1.0)}))
    kept = {"domain": "sql", "num_traces": 9, "accept_length": 2, "live_accept_length": 1, "gain": 1, "is_worse": False}
    GateDecision.objects.filter(version=version).update(domains=[kept])
    [waiting] = ask("GET", "/approvals")
    for found in (*waiting["domains"], waiting["worst_domain"]):
        assert json.dumps(found, sort_keys=True) == json.dumps(kept, sort_keys=True)  # no null, and no 2.0 for 2
    assert ask("GET", "/targets/{slug}/state", slug="demo")["gate"][0]["domains"] == [kept]


def test_events_are_sentences(ask, in_use):
    found = ask("GET", "/targets/{slug}/events", slug="demo")
    assert {"swap", "candidate", "canary", "alert"} <= {event["kind"] for event in found}


@pytest.fixture
def on_disk(target, judged, report, settings, tmp_path):
    """v2, live by a person's word, learnt from 4 traces, with a file on this disk; v1 was live before it."""
    settings.VERSIONS_DIR = tmp_path
    first = judged()
    metrics.ingest_counts({"counts": [count_window().to_json()]})
    metrics.roll_up()
    Target.objects.update(approval=ApprovalPolicy.MANUAL)
    version = judged(report({"sql": (2.0, 1.0)}))
    SpeculatorVersion.objects.filter(pk=version.pk).update(parent=first)
    GateDecision.objects.filter(version=version).update(predicted_speedup=1.2, live_predicted_speedup=1.0)
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
    assert {row["metric"] for row in found["gate"]["rows"]} == {"Accept length", "Speedup, predicted", "Accept rate"}
    assert any(row["share"] == 1 for row in found["gate"]["rows"])
    first = ask("GET", VERSION, slug="demo", number=1)
    assert (first["learnt"], first["served"][0]["accept_length"] > 1) == (None, True)
    state = ask("GET", "/targets/{slug}/state", slug="demo")
    assert (state["versions"][0]["parent"], state["gate"][0]["domains"][0]["share"]) == (1, 1)


def test_versions_side_by_side(ask, target, on_disk):
    metrics.ingest_counts({"counts": [count_window(version=2).to_json()]})
    metrics.roll_up()
    asked = {"query": "?v=1&v=2", "slug": "demo"}
    curves = ask("GET", "/targets/{slug}/versions/curves", **asked)
    assert curves == as_json(curves_payload(target, choose(target, ["1", "2"])))
    assert [len(curve["points"]) for curve in curves] == [1, 1]
    found = ask("GET", "/targets/{slug}/versions/compare", **asked)
    assert (found["versions"], found["learnt"][0]) == (curves, None)
    assert found["learnt"][1]["domains"] == {"sql": 4}
    for name in ("measured", "replayed", "positions", "replay_positions", "data"):
        assert found[name], name
    assert found["measured"][0]["cells"][1]["change"]["reason"]
