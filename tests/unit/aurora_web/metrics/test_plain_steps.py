"""Steps that drafted nothing are in no accept length, wherever one is shown, and their share stands beside it.

Requests that a pin or a header took speculation from are in no figure "with speculation" either.
"""

import time
from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.console.cards import cards
from aurora_web.console.charts import points_of, table
from aurora_web.metrics import charts, rollups
from aurora_web.metrics import services as metrics
from aurora_web.metrics.by_replica import sums_by_replica
from aurora_web.metrics.by_version import curve, served_between, served_by_domain
from aurora_web.metrics.domains import read_sums
from aurora_web.metrics.fleet_figures import fleet_figures
from aurora_web.metrics.levels import accept_levels
from aurora_web.metrics.models import MetricWindow
from speculators.records import NO_DRAFT
from tests.unit.aurora_web.conftest import count_window

pytestmark = pytest.mark.django_db


@pytest.fixture
def served(target):
    """Accept length 2 in 2,000 steps with drafts, and 3,000 steps without; a control, and a pin that says no drafts."""
    windows = [count_window(plain=2000), count_window(plain=1000, domain="prose")]
    windows += [count_window(version=0), count_window(lookahead=0, plain=500)]
    metrics.ingest_counts({"counts": [w.to_json() for w in windows]})
    metrics.roll_up()
    return target


def lengths(target):
    """Name -> accept length, of every place that shows one."""
    now, since = time.time(), timezone.now() - timedelta(minutes=5)
    point = charts.add_up(charts.points(target, now - 300, now + 10, charts.ALL))
    series = metrics.series(target, since=now - 300)
    (by_replica,) = [s for s in sums_by_replica(target, since, [1]) if s.domain == "sql"]
    bucket = curve(target, 1)
    windows = [s for s in read_sums(target, since, timezone.now() + timedelta(minutes=5), 300) if s.version == 1]
    yield "summary", metrics.summary(target)["total"]["accept_length"]
    yield "points", point["drafted_tokens"] / point["steps"]
    yield "series", sum(p["drafted_tokens"] for p in series) / sum(p["steps"] for p in series)
    yield "replicas", by_replica.accept.ratio
    yield "version's period", served_between(target, 1, since, None)["accept_length"]
    yield "curve", sum(p["tokens"] for p in bucket) / sum(p["steps"] for p in bucket)
    yield "fleet", fleet_figures([target.pk], 600.0, now + 60)[target.pk].to_json()["accept_length"]
    for row in served_by_domain(target, [1]):
        yield f"version in {row.domain}", row.accept_length
    for row in windows:
        yield f"domains' {row.domain}", row.accept.ratio
    for level in accept_levels(target, timezone.now() + timedelta(seconds=15)):
        yield f"level of {level.domain}", level.recent


def test_no_accept_length_counts_them(served):
    found = dict(lengths(served))
    assert len(found) >= 13
    assert {name: round(value, 1) for name, value in found.items()} == dict.fromkeys(found, 2.0)


def test_their_share_stands_beside_it(served):
    total = metrics.summary(served)["total"]
    assert total["plain_share"] == pytest.approx(3000 / 5000, rel=0.01)
    assert metrics.summary(served, domain="sql")["total"]["plain_share"] == pytest.approx(2000 / 3000, rel=0.01)


def test_sums_of_an_hour_say_the_same(served):
    before = [(s.version, s.domain, s.accept) for s in served_by_domain(served, [1])]
    rollups.refresh(timezone.now() + timedelta(hours=2))
    assert [(s.version, s.domain, s.accept) for s in served_by_domain(served, [1])] == before


def test_nothing_but_plain_steps_is_no_accept_length(target):
    window = count_window(n=1, tokens=0.0, plain=50)
    metrics.ingest_counts({"counts": [window.to_json()]})
    metrics.roll_up()
    total = metrics.summary(target)["total"]
    assert (total["accept_length"], total["plain_share"]) == (None, 1.0)
    assert served_by_domain(target, [1])[0].accept_length is None
    assert accept_levels(target, timezone.now()) == []
    assert [card.total["accept_length"] for card in cards()] == [None]


def test_an_engine_that_does_not_count_them_yet_is_still_heard(target):
    payload = count_window().to_json()
    del payload["num_plain_steps"]
    assert metrics.ingest_counts({"counts": [payload]}) == (1, 0)


@pytest.fixture
def pinned(target):
    """100 tokens/s with speculation; as many at 25/s under a version without, and before any; a control at 50/s."""
    windows = [count_window(seconds=1.0), count_window(lookahead=0, seconds=4.0), count_window(version=0, seconds=2.0)]
    windows.append(count_window(version=NO_DRAFT, lookahead=0, seconds=4.0))
    metrics.ingest_counts({"counts": [w.to_json() for w in windows]})
    metrics.roll_up()
    return target


def speeds(target):
    """Name -> tokens/s with speculation, of every place that shows one."""
    now, since = time.time(), timezone.now() - timedelta(minutes=5)
    summary = metrics.summary(target)
    point = charts.add_up(charts.points(target, now - 300, now + 10, charts.ALL))
    series = metrics.series(target, since=now - 300)
    yield "summary", summary["total"]["tokens_per_second"]
    yield "domain", summary["domains"][0]["tokens_per_second"]
    yield "batch size", summary["total"]["batch_buckets"][0]["tokens_per_second"]
    yield "version", metrics.total_of(target, 1, now - 300)["tokens_per_second"]
    yield "points", point["tokens"] / point["seconds"]
    yield "series", sum(p["tokens"] for p in series) / sum(p["seconds"] for p in series)
    rows = table(target, now - 300, now + 10, *points_of(target, now - 300, now + 10))
    yield "table", next(row["tokens_per_second"] for row in rows if row["num_requests"])
    yield "fleet", fleet_figures([target.pk], 600.0, now + 60)[target.pk].to_json()["tokens_per_second"]
    for sums in sums_by_replica(target, since, [1]):
        yield f"replica {sums.replica}", sums.speed.ratio


def test_no_speed_with_speculation_counts_requests_without_it(pinned):
    found = dict(speeds(pinned))
    assert len(found) == 9
    assert found == pytest.approx(dict.fromkeys(found, 100.0), rel=0.02)
    total = metrics.summary(pinned)["total"]
    assert total["speedup"]["value"] == pytest.approx(2.0, rel=0.02)
    assert total["control_tokens_per_second"] == pytest.approx(50, rel=0.02)
    assert [total[side]["num_requests"] for side in ("counts", "control_counts")] == [60, 20]
    fleet = fleet_figures([pinned.pk], 600.0, time.time() + 60)[pinned.pk]
    assert fleet.to_json()["speedup"]["value"] == pytest.approx(2.0, rel=0.02)
    assert set(fleet.tokens_by_version) == {NO_DRAFT, 0, 1}
    latest = charts.latest_speedups(pinned, time.time() + 10)
    assert latest[""]["value"] == pytest.approx(2.0, rel=0.02)


def test_the_mean_lookahead_is_that_of_requests_with_speculation(pinned):
    now = time.time()
    point = charts.add_up(charts.points(pinned, now - 300, now + 10, charts.ALL))
    assert point["proposed_drafts"] / point["all_steps"] == 4.0
    assert point["num_requests"] == 60


def test_sums_of_an_hour_leave_the_same_requests_out(pinned):
    MetricWindow.objects.update(started_at=timezone.now() - timedelta(hours=2))
    hour = MetricWindow.objects.latest("started_at").started_at.replace(minute=0, second=0, microsecond=0)
    rollups.mark(pinned.pk, [hour])
    until, since = time.time(), time.time() - 4 * 3600
    before = metrics.summary(pinned, since=since, until=until)["total"]
    assert rollups.refresh(timezone.now()) == 1
    assert metrics.summary(pinned, since=since, until=until)["total"] == before
    assert before["tokens_per_second"] == pytest.approx(100, rel=0.02)
