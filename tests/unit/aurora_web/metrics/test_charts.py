"""Chart points, the speedup's band, shifts of the mix, and capture counters."""

import random
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.metrics import charts
from aurora_web.metrics import services as metrics
from aurora_web.metrics.capture import add_capture, capture_series, since_last_report
from aurora_web.metrics.mix import shifts
from aurora_web.metrics.models import CaptureWindow, MetricWindow
from aurora_web.rollouts import replicas
from tests.unit.aurora_web.conftest import count_window

pytestmark = pytest.mark.django_db


def ingest(*windows):
    metrics.ingest_counts({"counts": [w.to_json() for w in windows]})
    metrics.roll_up()


def test_points_sum_counts_per_domain_and_keep_the_tokens_of_each_version(target):
    ingest(*(count_window(version=number) for number in (0, 1, 2)), count_window(domain="prose", version=2))
    now = time.time()
    found = {p["domain"]: p for p in charts.points(target, now - 60, now + 10, 120)}
    sql = found["sql"]
    assert sql["num_requests"] == 40  # the control's are blocks of steps of the same requests
    assert {p["domain"]: p["num_requests"] for p in charts.requests(target, now - 60, now + 10, 120)}["sql"] == 40
    assert sum(p["num_requests"] for p in metrics.series(target) if p["domain"] == "sql") == 40
    assert sql["tokens"] == sql["drafted_tokens"] == sql["versions"][1] + sql["versions"][2]
    assert sql["control_tokens"] == sql["versions"][0] > 0
    assert sql["proposed_drafts"] / sql["all_steps"] == 4.0
    assert set(found["prose"]["versions"]) == {2}


def test_steps_without_drafts_count_for_the_mean_lookahead_but_not_for_accept_length(target):
    ingest(count_window(lookahead=4, plain=995))
    now = time.time()
    (point,) = charts.points(target, now - 60, now + 10, 600)
    assert point["all_steps"] == 2 * point["steps"]


def test_the_speedup_has_the_band_of_the_summary_and_a_reason_where_it_is_unknown(target):
    ingest(count_window(seconds=0.5))
    now = time.time()
    last = charts.speedups(target, now - 600, now + 10, 30)[-1]
    assert (last["value"], last["reason"]) == (None, "0 control blocks, at least 5 are needed")
    ingest(count_window(n=1, bucket=2))
    said = metrics.summary(target)["total"]["speedup"]["reason"]
    assert said == "of one domain and batch size: 0 control blocks, at least 5 are needed"
    ingest(count_window(version=0, seconds=1.0))
    last = charts.speedups(target, now - 600, now + 10, 30)[-1]
    expected = metrics.summary(target)["total"]["speedup"]
    assert last["value"] == pytest.approx(2.0, rel=0.05)
    assert (last["value"], last["low"], last["high"]) == pytest.approx(
        (expected["value"], expected["low"], expected["high"])
    )
    pushed = metrics.windows_payload(target, now - 60)
    assert pushed["speedups"][""]["value"] == pushed["speedups"]["sql"]["value"] == pytest.approx(last["value"])


def test_the_speedup_looks_back_five_minutes_and_no_further(target):
    ingest(count_window(seconds=0.5), count_window(version=0, seconds=1.0))
    old = timezone.now() - timedelta(minutes=20)
    MetricWindow.objects.update(started_at=old)
    now = time.time()
    found = charts.speedups(target, now - 3600, now, 60)
    assert {round((s["at"] - old.timestamp()) / 60) for s in found} <= set(range(7))
    assert found[0]["value"] is not None


def test_the_figures_of_one_version_leave_the_others_out(target):
    ingest(count_window(version=1, seconds=1.0), count_window(version=2, seconds=0.5), count_window(version=0))
    since = time.time() - 300
    whole, live = metrics.total(target, since), metrics.total_of(target, 2, since)
    assert live["counts"]["num_requests"] == 20 < whole["counts"]["num_requests"]
    assert live["speedup"]["value"] > whole["speedup"]["value"]
    assert metrics.total_of(target, 3, since)["speedup"]["value"] is None


def test_a_version_is_compared_with_the_control_of_the_time_in_which_it_served(target):
    ingest(count_window(version=1, seconds=0.25), count_window(version=0, seconds=0.5))
    MetricWindow.objects.update(started_at=timezone.now() - timedelta(seconds=120))
    ingest(count_window(version=2, seconds=1.0), count_window(version=0, seconds=2.0))  # slower traffic since
    live = metrics.total_of(target, 2, time.time() - 300)
    assert live["control_counts"]["num_requests"] == 20
    assert live["speedup"]["value"] == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(("seconds", "bucket"), [(300, 10), (1800, 10), (10800, 60), (86400, 600), (28 * 86400, 21600)])
def test_a_chart_has_at_most_two_hundred_points(seconds, bucket):
    assert charts.bucket_seconds(seconds) == bucket
    assert seconds / bucket <= charts.MAX_BUCKETS


def mix(at, **requests):
    return [{"at": at, "domain": name, "num_requests": n} for name, n in requests.items()]


def test_a_shift_of_the_mix_is_found_once_where_it_was():
    points = [p for i in range(20) for p in mix(30 * i, sql=10, prose=10 if i < 10 else 90)]
    (found,) = shifts(points, 30)
    assert found["at"] == 300
    assert found["text"] == "traffic shifted: sql went from 50\u00a0% to 10\u00a0% of requests"


@pytest.mark.parametrize(
    "points",
    [
        [],
        [p for i in range(20) for p in mix(30 * i, sql=10, prose=10 + i % 3)],
        [p for i in range(20) for p in mix(30 * i, **({"sql": 2} if i < 10 else {"prose": 2}))],
    ],
    ids=["nothing", "noise", "too few requests"],
)
def test_no_shift(points):
    assert shifts(points, 30) == []


def test_capture_counts_what_is_new_in_every_report_and_survives_a_restart(target, observed):
    for kept, dropped in ((100, 5), (130, 5), (140, 8), (7, 1)):  # the last one has restarted
        replicas.observe(observed(num_traces=kept, num_dropped_traces=dropped))
    now = time.time()
    rows = capture_series(target, now - 60, now + 10)
    assert sum(row["traces"] for row in rows) == 30 + 10 + 7
    assert sum(row["dropped"] for row in rows) == 0 + 3 + 1
    assert since_last_report(None, 100) == 0


@pytest.mark.parametrize("bucket", [3600, 21600])
def test_capture_of_whole_hours_is_that_of_its_windows(target, bucket):
    rng = random.Random(bucket)
    now = timezone.now()
    for _ in range(200):
        at = now - timedelta(seconds=rng.randrange(30 * 3600))
        add_capture(target, at, rng.randrange(9), rng.randrange(3))
    until = now.timestamp() - 777
    for since in (until - 27 * 3600, until - 3 * 3600, until - 3700):
        expected = {}
        for row in capture_series(target, since, until):
            sums = expected.setdefault(row["at"] // bucket * bucket, [0, 0])
            sums[0] += row["traces"]
            sums[1] += row["dropped"]
        found = capture_series(target, since, until, bucket)
        assert {row["at"]: [row["traces"], row["dropped"]] for row in found} == expected
        assert found
    CaptureWindow.objects.filter(started_at__lt=now - timedelta(hours=3)).delete()
    assert len(capture_series(target, until - 27 * 3600, until, 3600)) > 15, "whole hours come from their sums"
