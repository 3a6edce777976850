"""Pages of a target that SGLang serves: registration, launch command, connection, canary, alerts."""

import json
import re

import pytest
from django.utils import timezone

from aurora_web.accounts.models import ApiToken
from aurora_web.accounts.services import authenticate_token
from aurora_web.registry.models import SpeculatorVersion
from aurora_web.registry.services import register_target
from aurora_web.rollouts import canaries, replicas, services, watching
from aurora_web.rollouts.models import Replica, Rule

pytestmark = pytest.mark.django_db


def text(answer):
    return " ".join(answer.content.decode().split())


@pytest.fixture
def target(checkpoint_dir):
    return register_target(
        actor="ada", source="sglang", path=str(checkpoint_dir), slug="demo", canary_share=0.5, approval="manual"
    )


@pytest.fixture
def canary(target, make_version, report, observed):
    services.judge(make_version())
    for name in ("r1", "r2"):
        replicas.observe(observed(replica=name, engine="sglang 0.5.21"))
    version = make_version(report({"sql": (2.0, 1.0)}))
    services.judge(version)
    services.approve(SpeculatorVersion.objects.get(number=2), "ada")
    return SpeculatorVersion.objects.get(number=2)


def test_the_launch_command_appears_with_version_one(clients, target, make_version):
    assert "Version 1 is being made" in text(clients["viewer"].get("/targets/demo/"))
    services.judge(make_version())
    page = text(clients["viewer"].get("/targets/demo/"))
    assert "Waiting for a server." in page
    assert f"--speculative-draft-model-path {SpeculatorVersion.objects.get().uri}" in page
    assert "Make a replica token" not in page  # a viewer
    cpu = text(clients["viewer"].get("/targets/demo/launch/?variant=cpu&replica=2"))
    assert "--device cpu" in cpu
    assert "demo-30001" in cpu
    assert "demo-30000" in text(clients["viewer"].get("/targets/demo/launch/?variant=x&replica=y"))


def test_a_token_is_shown_once_and_works(clients, target):
    page = text(clients["operator"].post("/targets/demo/replica-token/", follow=True))
    secret = re.search(r"export AURORA_REPLICA_TOKEN=(\S+)</pre>", page)[1]
    assert authenticate_token(secret).role == "replica"
    assert secret not in text(clients["operator"].get("/targets/demo/"))
    assert ApiToken.objects.get().created_by == "operator"


def test_the_connection_follows_the_reports(clients, target, observed):
    assert "Waiting for a server." in text(clients["viewer"].get("/targets/demo/connection/"))
    replicas.observe(observed(engine="sglang 0.5.21, plugin 0.1.0"))
    said = text(clients["viewer"].get("/targets/demo/connection/"))
    assert "<strong>Connected:</strong> r1 (sglang 0.5.21, plugin 0.1.0) reports to this console." in said
    assert "hx-trigger" not in said  # no polling once it is connected
    Replica.objects.update(is_alive=False)
    assert "<strong>Not connected:</strong> r1 was seen" in text(clients["viewer"].get("/targets/demo/connection/"))


def test_replicas_show_desired_and_observed_proof_and_capture(clients, target, make_version, observed):
    services.judge(make_version())
    version = SpeculatorVersion.objects.get()
    runs = {"generation": 1, "version": 1, "sha256": version.sha256, "ranks": (version.sha256, version.sha256)}
    replicas.observe(observed(**runs, target_sha256="a" * 64, queue_bytes=2048, num_dropped_traces=3))
    page = text(clients["viewer"].get("/targets/demo/parts/?part=replicas"))
    for expected in ("v1 → v1", "proved on all 2 ranks", "target weights untouched", "queue 2.0 KiB, 3 dropped"):
        assert expected in page
    replicas.observe(observed(generation=0, capture_state="broken", capture_detail="eagle_sample is gone"))
    page = text(clients["viewer"].get("/targets/demo/parts/?part=replicas"))
    for expected in ("v1 → v0", "generation 1 → 0", "catching up", "broken", "eagle_sample is gone"):
        assert expected in page


def test_what_a_replica_cannot_obey_of_the_policy_is_shown_until_it_can(clients, target, observed):
    why = "largest lookahead 0 (the server drafts 4 tokens, as it was launched)"
    pages = ("/targets/demo/", "/targets/demo/replicas/", "/replicas/")
    replicas.observe(observed(policy_detail=why))
    for path in pages:
        page = text(clients["viewer"].get(path))
        assert "policy not obeyed" in page
        assert why in page
    replicas.observe(observed())
    for path in pages:
        assert "policy not obeyed" not in text(clients["viewer"].get(path))


def test_the_badge_of_accept_lengths_follows_the_alert_rule(clients, target, observed):
    replicas.observe(observed())
    Replica.objects.update(accept_length=2.0, engine_accept_length=2.16, compared_at=timezone.now())
    badge = "−7.4 % apart"
    assert badge not in text(clients["viewer"].get("/targets/demo/"))
    Replica.objects.update(disagreement_before=-0.08)
    assert badge in text(clients["viewer"].get("/targets/demo/"))
    watching.set_rule(target, Rule.ACCEPT_LENGTH_DISAGREES, "ada", threshold=10, is_enabled=True)
    assert badge not in text(clients["viewer"].get("/targets/demo/"))
    watching.set_rule(target, Rule.ACCEPT_LENGTH_DISAGREES, "ada", threshold=2, is_enabled=True)
    assert badge in text(clients["viewer"].get("/targets/demo/parts/?part=replicas"))
    watching.set_rule(target, Rule.ACCEPT_LENGTH_DISAGREES, "ada", threshold=2, is_enabled=False)
    assert badge not in text(clients["viewer"].get("/targets/demo/"))
    Replica.objects.update(is_alive=False)
    watching.set_rule(target, Rule.ACCEPT_LENGTH_DISAGREES, "ada", threshold=2, is_enabled=True)
    assert badge not in text(clients["viewer"].get("/targets/demo/"))


def test_alerts_are_on_overview_and_target_page(clients, target, observed):
    replicas.observe(observed(capture_state="broken", capture_detail="eagle_sample is gone"))
    for path in ("/", "/targets/demo/", "/targets/demo/parts/?part=alerts"):
        assert "r1 serves, but keeps no traces: eagle_sample is gone." in text(clients["viewer"].get(path))
    assert "1 alert</a>" in text(clients["viewer"].get("/"))
    replicas.observe(observed())
    assert "1 alert</a>" not in text(clients["viewer"].get("/"))
    assert "Alerts that have ended" in text(clients["viewer"].get("/targets/demo/"))


def test_approving_says_that_a_canary_comes_first(clients, canary):
    assert canary.status == "canary"
    page = text(clients["viewer"].get("/targets/demo/"))
    assert "against v1" in page
    assert "0 requests on the canary and 0 on the others; the policy asks for 50 on either side." in page
    assert "/promote/" not in page
    assert "/versions/2/promote/" in text(clients["operator"].get("/targets/demo/"))
    assert f"/approvals/{canary.pk}/" in text(clients["operator"].get("/targets/demo/versions/2/"))
    assert "v2 in canary" in text(clients["viewer"].get("/"))


def test_buttons_promote_and_abort(clients, canary, make_version, report):
    operator = clients["operator"]
    stale = operator.post("/targets/demo/versions/2/promote/", {"expected_status": "passed"}, follow=True)
    assert "Nothing was changed: demo v2 is canary, not passed any more" in text(stale)
    done = operator.post("/targets/demo/versions/2/abort/", {"expected_status": "canary", "reason": "odd"}, follow=True)
    assert "v2 is rolled back" in text(done)
    services.judge(make_version(report({"sql": (2.0, 1.0)})))
    third = SpeculatorVersion.objects.get(number=3)
    assert "first as a canary on" in text(operator.get(f"/approvals/{third.pk}/"))
    done = operator.post("/targets/demo/versions/3/approve/", {"expected_status": "passed"}, follow=True)
    assert "v3 goes into canary on" in text(done)
    done = operator.post("/targets/demo/versions/3/promote/", {"expected_status": "canary"}, follow=True)
    assert "v3 goes live on every replica." in text(done)
    assert not Replica.objects.filter(is_canary=True).exists()


def test_an_embedded_target_has_no_launch_part(clients, checkpoint_dir):
    register_target(actor="ada", path=str(checkpoint_dir), slug="demo")
    assert clients["viewer"].get("/targets/demo/launch/").status_code == 404
    assert "launch_server" not in text(clients["viewer"].get("/targets/demo/"))


def test_what_a_replica_says_is_escaped(clients, target, observed):
    replicas.observe(observed(engine="<script>alert(1)</script>", capture_state="broken", capture_detail="<b>x</b>"))
    for path in ("/", "/targets/demo/"):
        page = text(clients["viewer"].get(path))
        assert "<script>alert" not in page
        assert "<b>x</b>" not in page


def test_the_canary_policy_is_in_the_settings(clients, target):
    page = text(clients["admin"].get("/targets/demo/settings/"))
    assert "Canary share" in page
    assert canaries.plan(target).reason == "No canary: no version is live to compare with."
    change = {"data": json.dumps({"canary_share": 2}), "content_type": "application/json"}
    assert clients["admin"].patch("/api/v1/targets/demo", **change).status_code == 422
