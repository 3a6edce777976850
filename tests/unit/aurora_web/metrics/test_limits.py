"""Counts that no server can have: they are refused, and those that got in before stop nobody's figures."""

import json
import time
from dataclasses import replace

import pytest
from django.utils import timezone

from aurora_web.metrics import capture, limits
from aurora_web.metrics import services as metrics
from aurora_web.metrics.models import CaptureHour, CountRow, MetricWindow, TokenTotal
from aurora_web.metrics.rollups import SUMMED
from aurora_web.registry.services import register_target
from speculators.records import RecordError
from tests.unit.aurora_web.conftest import count_window

pytestmark = pytest.mark.django_db


def send(*windows):
    return metrics.ingest_counts({"counts": [window.to_json() for window in windows]})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"num_accept_tokens": 2**62}, "num_accept_tokens: expected a whole number from 0 to 2147483647"),
        ({"num_requests": 2**31}, "num_requests"),
        ({"num_proposed_drafts": 2**40}, "num_proposed_drafts"),
        ({"num_correct_drafts": 9, "num_proposed_drafts": 8}, "num_correct_drafts: expected at most the 8 of"),
        ({"num_plain_steps": 9, "num_verify_steps": 8}, "num_plain_steps: expected at most the 8 of"),
        ({"decode_seconds": 2e9}, "decode_seconds: expected at most 1e[+]09"),
        ({"sum_xx": 9e299}, "sum_xx"),
        ({"sum_yy": 9e299}, "sum_yy"),
        ({"sum_xy": 9e299}, "sum_xy"),
        ({"ended_at": 253402214400.0}, "ended_at: expected a time that has been, got 9999-12-31"),
    ],
)
def test_a_window_that_no_server_can_have_counted_is_refused_with_all_that_came_with_it(target, wrong, says):
    with pytest.raises(RecordError, match=says):
        send(count_window(), replace(count_window(), **wrong))
    assert not CountRow.objects.exists()


def test_the_answer_to_such_a_window_names_the_field(target, client, bearer):
    body = {"counts": [replace(count_window(), num_accept_tokens=2**62).to_json()]}
    found = client.post("/api/v1/ingest/counts", json.dumps(body), "application/json", **bearer("replica"))
    assert (found.status_code, "num_accept_tokens" in found.json()["detail"]) == (422, True)


def test_a_very_busy_server_with_a_clock_some_hours_ahead_is_heard(target):
    now = time.time()
    busy = replace(count_window(), num_requests=100_000, started_at=now + 7000, ended_at=now + 7200)
    assert send(replace(busy, num_accept_tokens=2_000_000_000, sum_xx=4e18, sum_yy=9e17, sum_xy=2e18)) == (1, 0)


@pytest.mark.parametrize("wrong", [{"num_accept_tokens": 2**62}, {"sum_xx": 1e308}, {"decode_seconds": 1e308}])
def test_rows_that_are_too_large_to_be_summed_stop_no_others(target, checkpoint_dir, wrong):
    """Rows as ingest let them in once, beside those of two targets."""
    register_target(path=str(checkpoint_dir), actor="test", slug="other", name="Other")
    send(count_window(n=7), count_window(n=8))
    CountRow.objects.update(**wrong)
    send(count_window(n=3), replace(count_window(n=4), target="other"))
    assert metrics.roll_up() == 2
    assert not CountRow.objects.filter(rolled_up_at=None).exists()
    assert set(MetricWindow.objects.values_list("target__slug", "num_requests")) == {("demo", 3), ("other", 4)}


def test_a_row_of_a_far_future_makes_no_window(target):
    send(count_window())
    CountRow.objects.update(ended_at=timezone.now() + limits.FUTURE * 2)
    assert (metrics.roll_up(), MetricWindow.objects.count()) == (0, 0)


def test_a_sum_that_is_full_stays_so_and_the_others_go_on(target):
    send(count_window())
    metrics.roll_up()
    MetricWindow.objects.update(num_requests=2**63 - 1)
    TokenTotal.objects.update(num_accept_tokens=2**63 - 1)
    started = MetricWindow.objects.get().started_at.timestamp()
    before = MetricWindow.objects.get()
    send(replace(count_window(), ended_at=started + 1))
    assert metrics.roll_up() == 1
    found = MetricWindow.objects.get()
    assert (found.num_requests, found.num_verify_steps) == (limits.LARGEST_TOTAL, 2 * before.num_verify_steps)
    assert TokenTotal.objects.get().num_accept_tokens == limits.LARGEST_TOTAL


def test_every_column_that_is_summed_has_a_limit_and_a_batch_of_the_largest_fits():
    assert list(limits.LARGEST) == list(SUMMED)
    assert metrics.ROLL_UP_BATCH * limits.LARGEST_COUNT < limits.LARGEST_TOTAL


def test_counters_of_a_replica_that_jump_keep_no_other_report_out(target):
    for _ in range(4):
        capture.add_capture(target, timezone.now(), 2**62, 2**62)
    assert CaptureHour.objects.get().num_traces == 4 * capture.LARGEST_STEP
