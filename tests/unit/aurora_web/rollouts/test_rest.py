"""What a script decides over REST takes effect: versions, intent, what replicas are told, and the audit."""

import json
import math
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from aurora_web.accounts.models import AuditEvent
from aurora_web.metrics import services as metrics
from aurora_web.registry.models import SpeculatorVersion, Target
from aurora_web.rollouts import intent
from tests.unit.aurora_web.conftest import count_window

pytestmark = pytest.mark.django_db


@pytest.fixture
def call(client, bearer):
    """call(path, **body) as an operator's token: (status, answer)."""
    headers = bearer("operator")

    def make(path, **body):
        answer = client.post(f"/api/v1{path}", json.dumps(body), content_type="application/json", **headers)
        return answer.status_code, answer.json()

    return make


@pytest.fixture
def waiting(target, judged, report):
    """v1 is live, v2 waits."""
    Target.objects.update(approval="manual")
    judged()
    return judged(report({"sql": (2.0, 1.0)}))


def statuses():
    return dict(SpeculatorVersion.objects.order_by("number").values_list("number", "status"))


def wanted(target):
    return intent.desired_state(Target.objects.get(pk=target.pk)).version


def said(action):
    event = AuditEvent.objects.get(action=action)
    return event.reason, "operator's" in event.actor


def test_an_approved_version_is_what_replicas_are_told(target, call, waiting):
    generation = intent.desired_state(target).generation
    status, answer = call(f"/versions/{waiting.pk}/approve", reason="looks good", expected_status="passed")
    assert (status, answer["generation"]) == (200, generation + 1)
    assert statuses() == {1: "retired", 2: "live"}
    assert wanted(target) == 2
    assert said("version.approve") == ("looks good", True)
    status, answer = call(f"/versions/{waiting.pk}/approve", expected_status="passed")
    assert (status, statuses()) == (409, {1: "retired", 2: "live"})


def test_a_rejected_version_changes_nothing_for_replicas(target, call, waiting):
    assert call(f"/versions/{waiting.pk}/reject", reason="prose")[0] == 200
    assert statuses() == {1: "live", 2: "rejected"}
    assert wanted(target) == 1
    assert said("version.reject") == ("prose", True)
    status, answer = call(f"/versions/{waiting.pk}/approve")
    assert status == 409 and "rejected" in answer["detail"]


def test_a_rollback_brings_the_former_version_back_and_holds_it(target, call, waiting, judged, report):
    call(f"/versions/{waiting.pk}/approve")
    Target.objects.update(approval="automatic")
    status, _ = call("/targets/demo/rollback", reason="slower")
    assert (status, statuses()) == (200, {1: "live", 2: "rolled_back"})
    assert wanted(target) == 1
    assert said("version.rollback")[0] == "slower"
    judged(report({"sql": (3.0, 1.0)}))
    assert statuses()[3] == "passed"  # until somebody approves it or resumes
    status, _ = call("/targets/demo/rollback", to="7")
    assert (status, wanted(target)) == (409, 1)


@pytest.mark.parametrize("to", ["9" * 5000, "٣", "-1", "@nowhere"])
def test_a_rollback_to_what_is_no_version_is_refused_in_few_words(target, call, waiting, to):
    status, answer = call("/targets/demo/rollback", to=to)
    assert (status, wanted(target)) == (409, 1)
    assert answer["detail"] == f"demo has no version {to[:80]} to roll back to"


def test_a_rollback_that_says_what_it_saw_is_refused_when_that_is_over(target, call, waiting, judged, report):
    call(f"/versions/{waiting.pk}/approve")
    Target.objects.update(approval="automatic")
    judged(report({"sql": (3.0, 1.0)}))
    status, answer = call("/targets/demo/rollback", to="1", expected_live=2)
    assert (status, wanted(target)) == (409, 3)
    assert answer["detail"] == "demo v3 is live now, not v2 any more: this would take out v3 and bring back v1"
    status, answer = call("/targets/demo/rollback", expected_live=3, expected_canary=0)
    assert (status, answer["version"]) == (200, 2)  # @previous: what was live last before v3


def speedup_of(drafted, control):
    """By the textbook: Student's interval of a ratio of two ratios on the log scale, by the delta method."""

    def ratio_and_variance(window):
        n, ratio = window.num_requests, window.num_accept_tokens / window.decode_seconds
        residual = window.sum_xx - 2 * ratio * window.sum_xy + ratio**2 * window.sum_yy
        return ratio, n / (n - 1) * residual / window.num_accept_tokens**2, n

    (a, a_variance, a_n), (b, b_variance, b_n) = ratio_and_variance(drafted), ratio_and_variance(control)
    variance = a_variance + b_variance
    freedom = variance**2 / (a_variance**2 / (a_n - 1) + b_variance**2 / (b_n - 1))
    assert freedom == pytest.approx(38)
    half = 2.0244 * math.sqrt(variance)  # of Student's table, 97.5 % at 38 degrees of freedom
    return a / b * math.exp(-half), a / b, a / b * math.exp(half)


def test_a_time_splits_what_was_counted(target, client, bearer):
    """Two hours ago, half an hour ago and now: rolled up, and not yet."""
    now = time.time()
    for age, num in ((7200, 5), (1800, 7), (0, 11)):
        moved = replace(count_window(n=num), started_at=now - age - 1, ended_at=now - age)
        metrics.ingest_counts({"counts": [moved.to_json()]})
    metrics.roll_up()

    def requests(since=""):
        found = client.get(f"/api/v1/targets/demo/metrics{since}", **bearer("viewer")).json()
        return sum(row["counts"]["num_requests"] for row in found["domains"]), found["total"]["counts"]["num_requests"]

    assert requests() == (11, 11)  # ten minutes by default
    for age, expected in ((3600, 18), (3 * 3600, 23), (60, 11)):
        assert requests(f"?since={now - age}") == (expected, expected)
    half_past = datetime.fromtimestamp(now - 3600, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert requests(f"?since={half_past}") == (18, 18)


def test_the_figures_are_those_that_were_counted(target, client, bearer):
    windows = [
        count_window(seconds=0.5, version=1),
        count_window(seconds=1.0, version=0),
        count_window(seconds=2.0, version=1, domain="prose"),
    ]
    metrics.ingest_counts({"counts": [window.to_json() for window in windows]})
    metrics.roll_up()
    headers = bearer("viewer")
    found = client.get("/api/v1/targets/demo/metrics", **headers).json()
    rows = {row["domain"]: row for row in found["domains"]}
    assert set(rows) == {"sql", "prose"}
    [drafted, control] = windows[:2]
    sql = rows["sql"]
    assert sql["tokens_per_second"] == pytest.approx(drafted.num_accept_tokens / drafted.decode_seconds)
    assert sql["control_tokens_per_second"] == pytest.approx(control.num_accept_tokens / control.decode_seconds)
    assert sql["counts"]["num_requests"] == drafted.num_requests
    only = client.get("/api/v1/targets/demo/metrics?domain=prose", **headers).json()
    assert [row["domain"] for row in only["domains"]] == ["prose"]
    assert sql["accept_length"] == pytest.approx(drafted.num_accept_tokens / drafted.num_verify_steps)
    low, value, high = speedup_of(drafted, control)
    assert value == pytest.approx(2.0)
    told = sql["speedup"]
    assert [told[name] for name in ("low", "value", "high")] == pytest.approx([low, value, high], rel=1e-3)
    assert (low < value < high, told["reason"]) == (True, "")
    assert rows["prose"]["speedup"]["value"] is None
    assert "control" in rows["prose"]["speedup"]["reason"]
    later = client.get("/api/v1/targets/demo/metrics?since=4102444800", **headers).json()
    assert later["domains"] == [] or all(row["counts"]["num_requests"] == 0 for row in later["domains"])


def test_the_state_of_a_target_is_what_its_page_shows(client, bearer, target, waiting):
    found = client.get("/api/v1/targets/demo/state", **bearer("viewer")).json()
    assert [version["number"] for version in found["versions"]] == [2, 1]
    assert (found["deployment"]["version"], found["deployment"]["is_held"]) == (1, False)
    assert (found["training"]["is_paused"], found["freeze"]["is_frozen"], found["canary"]) == (False, False, None)
    assert [step["name"] for step in found["steps"] if step["is_current"]] == ["connect"]


def test_the_state_has_what_a_canary_measured(client, bearer, target, canary, measured):
    measured(0.5, 0.6)
    found = client.get("/api/v1/targets/demo/state", **bearer("viewer")).json()
    assert found["deployment"]["canary"] == canary.number
    assert (found["canary"]["action"], found["canary"]["total"]["domain"]) == ("wait", "")
    assert found["canary"]["total"]["speed"]["value"] == pytest.approx(1.2, abs=0.01)


def test_a_server_may_report_before_its_target_is_registered(client, bearer):
    answer = client.post("/api/v1/announced/token", **bearer("operator"))
    assert (answer.status_code, answer["cache-control"]) == (201, "no-store")
    assert client.post("/api/v1/announced/token", **bearer("viewer")).status_code == 403
    mine = {"HTTP_AUTHORIZATION": f"Bearer {answer.json()['token']}"}
    assert client.get("/api/v1/targets", **mine).status_code == 403  # it is for reports alone


def test_who_may_read_texts_can_be_asked(client, bearer, target):
    assert client.get("/api/v1/targets/demo/trace-access", **bearer("viewer")).json() == {"text_role": "operator"}
