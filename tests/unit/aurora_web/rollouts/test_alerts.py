"""Alerts begin, fire, change and end with what the replicas report; counters become rates and comparisons."""

from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.rollouts import alerts, replicas
from aurora_web.rollouts.counters import Counters, compare, traces_per_second
from aurora_web.rollouts.fleet import standings
from aurora_web.rollouts.models import Alert, Replica
from speculators.records import RecordError

pytestmark = pytest.mark.django_db


def firing(target):
    return {(a.rule, a.replica): a.detail for a in alerts.firing_alerts(target)}


def unknown(target):
    return {(a.rule, a.replica): a.unknown_why for a in alerts.firing_alerts(target) if a.unknown_since}


def counters(at, traces=0, ours=(0, 0), engines=(0, 0)):
    return Counters(at, traces, *ours, *engines)


def test_rates_and_ratios_are_of_differences():
    start = counters(100.0, traces=50, ours=(1000, 9000), engines=(2000, 2000))
    now = counters(170.0, traces=190, ours=(1400, 9800), engines=(2500, 3000))
    assert traces_per_second(start, now) == 2.0
    found = compare(start, now)
    assert (found.accept_length, found.engine_accept_length, found.num_verify_steps) == (2.0, 2.0, 400)


@pytest.mark.parametrize(
    "now",
    [
        counters(130.0, ours=(900, 1800), engines=(900, 1800)),  # too soon
        counters(170.0, ours=(199, 400), engines=(900, 1800)),  # too few steps of ours
        counters(170.0, ours=(900, 1800), engines=(199, 400)),  # too few of the engine's
        counters(170.0, ours=(900, 1800)),  # the engine has no metrics
    ],
)
def test_too_little_is_not_compared(now):
    assert compare(counters(100.0), now) is None


@pytest.fixture
def reports(target, observed):
    """reports(seconds, steps, tokens, engine_steps, engine_tokens): counters some seconds after the first report."""
    began = timezone.now().timestamp() - 600

    def make(seconds, steps, tokens, engine_steps, engine_tokens, **changes):
        replicas.observe(
            observed(
                reported_at=began + seconds,
                num_verify_steps=steps,
                num_accept_tokens=tokens,
                engine_num_verify_steps=engine_steps,
                engine_num_accept_tokens=engine_tokens,
                **changes,
            )
        )
        return Replica.objects.get()

    return make


def test_accept_lengths_more_than_five_percent_apart_twice_in_a_row_are_an_alert(target, reports):
    reports(0, 1000, 2500, 500, 1500)
    replica = reports(61, 2000, 4500, 1500, 3700)  # 2.0 by ours, 2.2 by the engine's
    assert (replica.accept_length, replica.engine_accept_length) == (2.0, 2.2)
    assert firing(target) == {}
    reports(122, 3000, 6500, 2500, 5900)  # the same again
    detail = firing(target)["accept_length_disagrees", "r1"]
    assert "2.00 by Aurora's records, 2.20 by the engine's metrics (−9.1\u00a0% over 1,000 steps" in detail
    reports(183, 4000, 8600, 3500, 8000)  # both 2.1
    assert firing(target) == {}
    assert Alert.objects.get().state == "resolved"
    reports(244, 5000, 10_600, 4500, 10_200)
    assert firing(target) == {}


def test_apart_to_either_side_is_chance(target, reports):
    reports(0, 0, 0, 0, 0)
    reports(61, 1000, 2000, 1000, 2200)
    reports(122, 2000, 4200, 2000, 4200)
    assert firing(target) == {}


def test_on_little_traffic_two_comparisons_in_a_row_are_hours_apart(target, reports):
    for i in range(3):
        reports(61 * i, 1000 * i, 2000 * i, 1000 * i, 2200 * i)
        assert bool(firing(target)) == (i == 2)
        Replica.objects.update(compared_at=timezone.now() - timedelta(seconds=661))
        reports(61 * i + 1, 1000 * i, 2000 * i, 1000 * i, 2200 * i)
        assert firing(target).keys() == unknown(target).keys()  # what was compared is too old to say anything


def test_four_percent_apart_is_no_alert(target, reports):
    for i in range(4):
        reports(61 * i, 1000 * i, 2000 * i, 1000 * i, 2080 * i)
    assert firing(target) == {}


@pytest.mark.parametrize("seconds", [61, 661])
def test_a_comparison_ends_when_it_is_old(target, reports, seconds):
    for i in range(3):
        reports(61 * i, 1000 * i, 2000 * i, 1000 * i, 2200 * i)
    Replica.objects.update(compared_at=timezone.now() - timedelta(seconds=seconds))
    replica = reports(123, 2000, 4000, 2000, 4400)
    assert (replica.accept_length is None) == (seconds > 600)
    assert firing(target)
    assert bool(unknown(target)) == (seconds > 600)


@pytest.mark.parametrize("changes", [{"state": "starting"}, {"state": "serving"}])
def test_a_restart_ends_the_comparison_and_the_next_one_its_alert(target, reports, changes):
    for i in range(3):
        reports(61 * i, 1000 * i, 2000 * i, 1000 * i, 2200 * i)
    assert firing(target)
    replica = reports(123, 10, 20, 10, 22, **changes)
    assert (replica.accept_length, replica.engine_accept_length, replica.compared_steps) == (None, None, 0)
    assert unknown(target) == {
        ("accept_length_disagrees", "r1"): "no replica has been compared with its engine's metrics"
    }
    for i in range(2):  # the first comparison since then
        reports(190 + 61 * i, 20 + 1000 * i, 40 + 2000 * i, 20 + 1000 * i, 44 + 2200 * i)
    assert firing(target) == {}


def test_a_restart_begins_the_windows_again(target, reports):
    reports(0, 5000, 10_000, 5000, 10_000)
    reports(61, 1000, 3000, 1000, 2000)
    assert Replica.objects.get().accept_length is None
    replica = reports(122, 2000, 6000, 2000, 6000)
    assert (replica.accept_length, replica.engine_accept_length) == (3.0, 4.0)


def test_capture_that_breaks_is_told_at_once_and_ends(target, observed):
    replicas.observe(observed())
    assert firing(target) == {}
    replicas.observe(observed(capture_state="broken", capture_detail="eagle_sample never fired"))
    replicas.observe(observed(capture_state="broken", capture_detail="eagle_sample never fired"))
    assert firing(target) == {("capture_broken", "r1"): "r1 serves, but keeps no traces: eagle_sample never fired."}
    replicas.observe(observed())
    replicas.observe(observed(capture_state="broken", capture_detail="again"))
    assert [a.state for a in Alert.objects.all()] == ["firing", "resolved"]  # a new episode is a new row


def test_off_is_a_choice_and_no_alert(target, observed):
    replicas.observe(observed(capture_state="off", capture_detail="AURORA_CAPTURE=0"))
    assert firing(target) == {}


def test_behind_fires_after_a_minute_of_the_same_generation(target, judged, report_in):
    judged()
    report_in("r1", "r2", generation=0, version=0, sha256="")
    report_in("r2")
    now = timezone.now()
    alerts.evaluate(target, now)
    assert firing(target) == {}
    Replica.objects.filter(name="r1").update(generation=0, seen_at=now + timedelta(seconds=59))
    alerts.evaluate(target, now + timedelta(seconds=59))
    assert firing(target) == {}
    alerts.evaluate(target, now + timedelta(seconds=61))
    assert firing(target) == {
        ("replica_behind", "r1"): "r1 runs v0 of generation 0; desired is v1 of generation 1.",
    }
    report_in("r1")
    assert firing(target) == {}


def test_a_replica_that_follows_many_swaps_is_not_behind(target, judged, report, report_in):
    """Every look finds it one generation late, but never at the same one for a minute."""
    judged()
    now = timezone.now()
    for i in range(1, 8):
        report_in("r1")
        judged(report({"sql": (1.0 + i, 1.0)}))
        alerts.evaluate(target, now + timedelta(seconds=20 * i))
    assert Alert.objects.get().state == "pending"


def test_a_failed_swap_and_one_that_is_down(target, observed):
    replicas.observe(observed(state="swap_failed", detail="no such file", generation=4))
    assert firing(target) == {("swap_failed", "r1"): "r1 could not swap (generation 4): no such file."}
    Replica.objects.update(is_alive=False)
    alerts.evaluate(target, timezone.now())
    assert unknown(target) == {("swap_failed", "r1"): "no replica reports"}


def test_a_clock_that_is_set_back_is_no_restart(target, reports):
    reports(0, 0, 0, 0, 0, target_sha256="a" * 64)
    reports(61, 1000, 2000, 1000, 2200, target_sha256="b" * 64)
    reports(122, 2000, 4000, 2000, 4400, target_sha256="b" * 64)
    before = firing(target)
    assert set(before) == {("target_changed", "r1"), ("accept_length_disagrees", "r1")}
    replica = reports(-3600, 2001, 4002, 2001, 4402, target_sha256="b" * 64)
    assert firing(target) == before
    assert (replica.first_target_sha256, replica.compared_steps) == ("a" * 64, 1000)
    replica = reports(-3530, 3001, 6202, 3001, 6602, target_sha256="b" * 64, num_traces=70)
    assert (replica.accept_length, replica.traces_per_second) == (2.2, 1.0)  # windows of the new clock
    assert set(firing(target)) == {("target_changed", "r1")}


def test_target_weights_that_change_are_an_alert_unless_the_replica_restarted(target, observed):
    replicas.observe(observed(target_sha256="a" * 64, num_traces=10))
    replicas.observe(observed(target_sha256="b" * 64, num_traces=11))
    assert ("target_changed", "r1") in firing(target)
    assert standings(target)[0].is_target_untouched is False
    replicas.observe(observed(target_sha256="b" * 64, state="starting"))
    replicas.observe(observed(target_sha256="b" * 64))
    assert firing(target) == {}


def test_standing_of_a_replica_with_ranks(target, judged, report_in):
    version = judged()
    report_in("r1", ranks=(version.sha256, version.sha256), target_sha256="c" * 64)
    [found] = standings(target)
    assert (found.progress, found.is_proven, found.proof) == ("up to date", True, "proved on all 2 ranks")
    assert found.is_target_untouched is True
    report_in("r1", ranks=(version.sha256, "d" * 64))
    [found] = standings(target)
    assert (found.is_proven, found.proof) == (False, "rank 1 holds something else")
    report_in("r1", generation=0)
    assert standings(target)[0].progress == "catching up"
    assert standings(target, timezone.now() + timedelta(seconds=61))[0].progress == "behind"
    Replica.objects.update(is_alive=False)
    assert standings(target)[0].progress == "down"


def test_an_older_replica_is_understood_and_nonsense_is_refused(client, bearer, target, observed):
    payload = observed().to_json()
    for name in ("capture_state", "capture_detail", "num_traces", "queue_bytes", "ranks", "target_sha256"):
        del payload[name]
    send = {"content_type": "application/json", **bearer("replica")}
    assert client.post("/api/v1/ingest/observed", payload, **send).status_code == 200
    assert Replica.objects.get().capture_state == "working"
    with pytest.raises(RecordError, match="capture_state: expected one of working, off, broken, got 'odd'"):
        replicas.observe(observed(capture_state="odd"))


def test_alerts_and_replicas_by_the_api(client, bearer, target, observed):
    replicas.observe(observed(capture_state="broken", capture_detail="why"))
    replicas.observe(observed())
    replicas.observe(observed(replica="r2", state="swap_failed", detail="disk"))
    headers = bearer("viewer")
    [alert] = client.get("/api/v1/targets/demo/alerts", **headers).json()
    assert (alert["rule"], alert["replica"], alert["ended_at"]) == ("swap_failed", "r2", None)
    every = client.get("/api/v1/targets/demo/alerts?state=all", **headers).json()
    assert [a["state"] for a in every] == ["firing", "resolved"]
    assert client.get("/api/v1/targets/demo/alerts?state=some", **headers).status_code == 422
    found = client.get("/api/v1/targets/demo/replicas", **headers).json()
    assert [(r["name"], r["progress"], r["capture_state"]) for r in found] == [
        ("r1", "up to date", "working"), ("r2", "behind", "working"),
    ]  # fmt: skip


def test_alerts_are_published(target, observed, monkeypatch):
    heard = []
    monkeypatch.setattr("aurora_web.live.publish", lambda pk, kind, data: heard.append((kind, data.get("state"))))
    replicas.observe(observed(capture_state="broken"))
    replicas.observe(observed())
    assert [state for kind, state in heard if kind == "alert"] == ["firing", "resolved"]
