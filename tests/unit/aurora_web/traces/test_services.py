import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from aurora_web.registry.models import Target
from aurora_web.registry.services import register_target
from aurora_web.traces import services
from aurora_web.traces.codec import unpack_steps
from aurora_web.traces.models import Trace, TraceSegment
from speculators.records import RecordError, StepRecord
from tests.unit.aurora_web.conftest import segment_payload

pytestmark = pytest.mark.django_db


def test_a_segment_counts_once_however_often_it_comes(target):
    payload = segment_payload(5)
    assert services.ingest_segment(payload) == (5, 0)
    assert services.ingest_segment(payload) == (0, 5)
    trace = Trace.objects.first()
    assert unpack_steps(trace.steps) == (StepRecord((4, 9), 1), StepRecord((6,), 0))
    assert (trace.tokens, trace.domain) == ([1, 2, 3, 4, 5, 6], "sql")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokens": [1, 2, 99, 4, 5, 6]}, "tokens"),  # not in the vocabulary of 61
        ({"prompt_len": 7}, "prompt_len"),
        ({"temperature": -1.0}, "temperature"),
        ({"trace_id": "x"}, "trace_id"),
        ({"started_at": float("1e30")}, "started_at"),
        ({"domain": ""}, "domain"),
        ({"surplus": 1}, "surplus"),
        ({"version_spans": [{"version": 1, "num_steps": 1}]}, "version_spans: expected 2 steps"),
        ({"version_spans": [{"version": 1}]}, "version_spans"),
        ({"version_spans": [{"version": -1, "num_steps": 2}]}, "version_spans"),
    ],
)
def test_a_bad_trace_refuses_the_whole_segment_and_is_named(target, change, named):
    payload = segment_payload(2)
    payload["traces"][1] |= change
    with pytest.raises(RecordError, match=named):
        services.ingest_segment(payload)
    assert not Trace.objects.exists()


def random_id():
    return uuid.uuid4().hex


def test_held_out_is_a_function_of_the_id_and_of_how_many_there_are(target):
    """One in four while a domain has fewer than three, then one in ten."""
    services.ingest_segment(segment_payload(40, make_id=random_id))
    for trace in Trace.objects.all():
        assert trace.is_held_out == (int(trace.trace_id.hex[:8], 16) % 4 == 0)
    Trace.objects.update(is_held_out=True)
    services.ingest_segment(segment_payload(60, make_id=random_id))
    for trace in Trace.objects.order_by("-received_at")[:60]:
        assert trace.is_held_out == (int(trace.trace_id.hex[:8], 16) % 10 == 0)


def test_a_lease_is_exclusive_and_held_out_traces_are_never_leased(target):
    services.ingest_segment(segment_payload(80, make_id=random_id))
    first, second = uuid.uuid4(), uuid.uuid4()
    mine = services.lease_fresh(target, first, 30, 60.0)
    theirs = services.lease_fresh(target, second, 1000, 60.0)
    assert len(mine) == 30
    assert not set(mine) & set(theirs)
    leased = Trace.objects.filter(trace_id__in=[*mine, *theirs])
    assert not leased.filter(is_held_out=True).exists()
    assert services.lease_fresh(target, uuid.uuid4(), 10, 60.0) == []


def test_an_expired_or_released_lease_is_free_again(target):
    services.ingest_segment(segment_payload(40))
    lease = uuid.uuid4()
    mine = services.lease_fresh(target, lease, 1000, 60.0)
    services.release(lease)
    again = services.lease_fresh(target, uuid.uuid4(), 1000, 60.0)
    assert set(again) == set(mine)
    Trace.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    assert set(services.lease_fresh(target, uuid.uuid4(), 1000, 60.0)) == set(mine)


def test_acknowledged_traces_are_trained_on_once(target):
    services.ingest_segment(segment_payload(40))
    lease = uuid.uuid4()
    mine = services.lease_fresh(target, lease, 1000, 60.0)
    services.acknowledge(lease, mine[1:], mine[:1])
    assert Trace.objects.filter(trained_at__isnull=False).count() == len(mine) - 1
    assert Trace.objects.get(trace_id=mine[0]).is_lost
    assert services.lease_fresh(target, uuid.uuid4(), 1000, 60.0) == []


def test_rows_lie_in_day_partitions(target):
    services.ingest_segment(segment_payload(1))
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM traces_trace")
        [(name,)] = cursor.fetchall()
    assert name.startswith("traces_trace_")
    assert not name.endswith("default")


def aged(slug, days):
    """One trace of so many days ago, as it would lie in its day's partition."""
    at = timezone.now() - timedelta(days=days)
    services.create_partitions(at, days_ahead=0)
    payload = segment_payload(1, target=slug)
    payload["traces"][0]["started_at"] = payload["segment"]["sealed_at"] = at.timestamp()
    assert services.ingest_segment(payload) == (1, 0)
    Trace.objects.filter(trace_id=payload["traces"][0]["trace_id"]).update(received_at=at)
    return at


def kept():
    """{slug: ages in days} of what is stored."""
    now, found = timezone.now(), {}
    for slug, at in Trace.objects.order_by("started_at").values_list("target__slug", "started_at"):
        found.setdefault(slug, []).append((now - at).days)
    return found


def test_a_target_s_own_retention_takes_the_place_of_the_console_s(target, checkpoint_dir, settings):
    settings.TRACE_DAYS = 7
    short = register_target(path=str(checkpoint_dir), actor="ada", slug="short", trace_days=2)
    long = register_target(path=str(checkpoint_dir), actor="ada", slug="long", trace_days=30)
    for slug in ("demo", "short", "long"):
        for days in (1, 3, 9):
            aged(slug, days)
    services.maintain()
    assert kept() == {"demo": [3, 1], "short": [1], "long": [9, 3, 1]}
    segments = TraceSegment.objects.filter(expired_at=None)
    assert not segments.filter(target=short, sealed_at__lt=timezone.now() - timedelta(days=2)).exists()
    Target.objects.filter(pk=long.pk).update(trace_days=None)
    old = timezone.now() - timedelta(days=9)
    assert services.drop_old_partitions(timezone.now()) == [f"traces_trace_{old:%Y%m%d}"]  # whole, as soon as it may go
    assert kept() == {"demo": [3, 1], "short": [1], "long": [3, 1]}


def test_a_target_that_raises_keeps_no_other_from_its_retention(target, checkpoint_dir, settings, monkeypatch, caplog):
    settings.TRACE_DAYS = 7
    other = register_target(path=str(checkpoint_dir), actor="ada", slug="other")
    Target.objects.update(trace_days=2)
    for slug in ("demo", "other"):
        aged(slug, 3)
    expire_segments = services.expire_segments

    def expire(now, hours=None, of=None):
        if of == target:
            raise KeyError("odd")
        return expire_segments(now, hours, of)

    monkeypatch.setattr(services, "expire_segments", expire)
    monkeypatch.setattr(services, "create_partitions", lambda now: {}["no room"])
    services.maintain()
    assert "other" not in kept()
    assert not TraceSegment.objects.filter(target=other, expired_at=None).exists()
    assert "KeyError: 'odd'" in caplog.text and "KeyError: 'no room'" in caplog.text


def test_hidden_states_go_with_their_traces(target, settings):
    settings.SEGMENT_HOURS = 24 * 30
    settings.TRACE_DAYS = 7
    Target.objects.update(trace_days=2)
    aged("demo", 3)
    aged("demo", 1)
    services.maintain()
    assert TraceSegment.objects.filter(expired_at=None).count() == 1


def test_a_clock_that_is_wrong_keeps_no_trace_for_ever(target, settings):
    settings.TRACE_DAYS = 7
    Target.objects.update(trace_days=2)
    payload = segment_payload(1)
    payload["traces"][0]["started_at"] = (timezone.now() + timedelta(days=300)).timestamp()
    services.ingest_segment(payload)
    assert services.delete_expired(timezone.now()) == 0
    Trace.objects.update(received_at=timezone.now() - timedelta(days=3))
    assert services.delete_expired(timezone.now()) == 1


def test_a_lease_is_held_for_longer_before_its_second_half(target):
    services.ingest_segment(segment_payload(20))
    lease = uuid.uuid4()
    mine = services.lease_fresh(target, lease, 5, 60.0)
    held = Trace.objects.filter(lease_id=lease)

    def seconds_left():
        return [(at - timezone.now()).total_seconds() for at in held.values_list("lease_expires_at", flat=True)]

    before = set(held.values_list("lease_expires_at", flat=True))
    services.extend_lease(lease, 60.0)
    assert set(held.values_list("lease_expires_at", flat=True)) == before
    held.update(lease_expires_at=timezone.now() + timedelta(seconds=20))
    services.extend_lease(lease, 60.0)
    assert len(seconds_left()) == len(mine) and min(seconds_left()) > 50
