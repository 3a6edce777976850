"""Servers that report before there is a target of their name."""

import json
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.registry import announcements
from aurora_web.registry.checks import Origin, examine
from aurora_web.registry.findings import State, Topic
from aurora_web.registry.models import AnnouncedReplica, Target
from aurora_web.registry.services import IncompatibleTarget, register_target
from aurora_web.rollouts import replicas
from aurora_web.rollouts.models import Replica
from speculators.records import Announcement

pytestmark = pytest.mark.django_db


@pytest.fixture
def said(checkpoint_dir):
    config = json.loads((checkpoint_dir / "config.json").read_text())

    def make(**changes):
        plain = {
            "replica": "r1", "target": "tiny", "engine": "sglang 0.5.21, aurora 0.1.0", "url": "http://127.0.0.1:30000",
            "model_path": str(checkpoint_dir), "draft_path": "/drafts/tiny", "aux_layer_ids": [1, 3, 4],
            "config": config, "reported_at": time.time(),
        }  # fmt: skip
        return plain | changes

    return make


def send(client, headers, body):
    return client.post("/api/v1/ingest/announce", json.dumps(body), content_type="application/json", **headers)


def finding(topic, **origin):
    found = examine(Origin(source="sglang", **origin)).findings
    return next(f for f in found if f.topic == topic)


def test_from_an_unknown_slug_to_a_replica(client, bearer, said, observed):
    replica = bearer("replica")
    report = json.dumps(observed(target="tiny").to_json())
    unknown = client.post("/api/v1/ingest/observed", report, content_type="application/json", **replica)
    assert unknown.status_code == 404  # what makes the server announce itself
    assert send(client, replica, said()).json() == {"announced": True}
    assert send(client, replica, said()).json() == {"announced": True}
    [listed] = client.get("/api/v1/announced", **bearer("viewer")).json()
    assert (listed["slug"], listed["name"], listed["engine"]) == ("tiny", "r1", "sglang 0.5.21, aurora 0.1.0")
    target = register_target(actor="ada", source="sglang", replica="tiny/r1")
    assert (target.slug, target.path) == ("tiny", said()["model_path"])
    assert not AnnouncedReplica.objects.exists()
    assert send(client, replica, said()).json() == {"announced": False}
    known = client.post("/api/v1/ingest/observed", report, content_type="application/json", **replica)
    assert known.status_code == 200
    assert Replica.objects.get().target == target


def test_only_a_replica_s_token_announces(client, bearer, said):
    assert send(client, bearer("admin"), said()).status_code == 403
    assert not AnnouncedReplica.objects.exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"target": "Bad Slug"}, "is no slug"),
        ({"replica": ""}, "Announcement.replica"),
        ({"model_path": "x" * 1001}, "Announcement.model_path"),
        ({"engine": "a\0b"}, "Announcement.engine"),
        ({"config": {"x": "a\0b"}}, "NUL"),
        ({"config": {"x": "y" * 200_001}}, "bytes"),
        ({"config": []}, "Announcement.config"),
        ({"aux_layer_ids": list(range(17))}, "aux_layer_ids"),
    ],
)
def test_what_is_wrong_is_named(client, bearer, said, changes, named):
    answer = send(client, bearer("replica"), said(**changes))
    assert answer.status_code == 422
    assert named in answer.json()["detail"]
    assert not AnnouncedReplica.objects.exists()


def test_there_is_a_limit_and_the_silent_are_forgotten(said, monkeypatch):
    monkeypatch.setattr(announcements, "MAX_REPLICAS", 1)
    announcements.announce(Announcement.from_json(said()))
    with pytest.raises(ValueError, match="1 servers wait"):
        announcements.announce(Announcement.from_json(said(replica="r2")))
    AnnouncedReplica.objects.update(seen_at=timezone.now() - timedelta(hours=25))
    assert announcements.announced_replicas() == []
    assert announcements.announce(Announcement.from_json(said(replica="r2")))
    assert [r.name for r in announcements.announced_replicas()] == ["r2"]


def test_its_slug_is_the_target_s(said):
    announcements.announce(Announcement.from_json(said()))
    with pytest.raises(IncompatibleTarget, match="AURORA_TARGET_SLUG=tiny"):
        register_target(actor="ada", source="sglang", replica="tiny/r1", slug="other")
    with pytest.raises(IncompatibleTarget, match="No server 'tiny/r2' has reported itself"):
        register_target(actor="ada", source="sglang", replica="tiny/r2")
    assert not Target.objects.exists()


def test_a_directory_that_only_the_server_sees(said):
    announcements.announce(Announcement.from_json(said(model_path="/far/away/tiny")))
    target = register_target(actor="ada", source="sglang", replica="tiny/r1")
    assert (target.path, target.origin, target.num_layers) == ("/far/away/tiny", "/far/away/tiny", 8)


def test_its_engine_and_its_layers_are_compared(said):
    announcements.announce(Announcement.from_json(said()))
    assert finding(Topic.ENGINE, replica="tiny/r1").state == State.OK
    assert finding(Topic.LAYERS, replica="tiny/r1").state == State.OK
    launched = [f for f in examine(Origin(source="sglang", replica="tiny/r1")).findings if f.topic == Topic.DRAFT]
    assert [f.state for f in launched if "/drafts/tiny" in f.says] == [State.WARNING]
    announcements.announce(Announcement.from_json(said(engine="sglang 0.4.9", aux_layer_ids=[1, 2, 3])))
    engine = finding(Topic.ENGINE, replica="tiny/r1")
    assert (engine.state, "sglang==0.5.21" in engine.fix) == (State.WARNING, True)
    layers = [f for f in examine(Origin(source="sglang", replica="tiny/r1")).findings if f.topic == Topic.LAYERS]
    assert [f.state for f in layers if "[1, 2, 3]" in f.says] == [State.WARNING]
    assert finding(Topic.ENGINE, model_id="acme/tiny", config=said()["config"]).state == State.WARNING


def test_a_report_of_a_registered_target_needs_no_announcement(target, observed):
    replicas.observe(observed())
    assert not AnnouncedReplica.objects.exists()
