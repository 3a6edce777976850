"""Roll-ups change how quickly a question is answered, and nothing else."""

import random
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from aurora_web.console.charts import chart_data
from aurora_web.console.timeline import markers
from aurora_web.metrics import by_version, charts, domains, rollups
from aurora_web.metrics import services as metrics
from aurora_web.metrics.models import HOUR, MetricRollUp, MetricWindow, RollUpHour
from aurora_web.registry.models import Target
from aurora_web.rollouts.savings import read_strata
from tests.unit.aurora_web.conftest import count_window

HOURS = 30


def fill(target, seed, hours=HOURS):
    """Random windows over the last hours, straight into the table, and their hours marked."""
    rng = random.Random(seed)
    now = timezone.now().timestamp() // 10 * 10
    found = {}
    for _ in range(1500):
        at = now - rng.randrange(0, hours * 360) * 10
        version = rng.choice((0, 1, 2, 3))
        key = (at, rng.choice(("sql", "prose")), version, rng.choice((0, 4)) if version else 0, rng.choice((1, 2)))
        n, steps = rng.randrange(1, 9), rng.choice((0, rng.randrange(1, 500)))
        tokens, seconds = steps + rng.randrange(0, 400), rng.random() * 9
        found[key] = MetricWindow(
            target=target,
            started_at=datetime.fromtimestamp(at, UTC),
            **dict(zip(rollups.KEYS, key[1:], strict=True)),
            num_requests=n,
            num_verify_steps=steps,
            num_proposed_drafts=4 * steps,
            num_correct_drafts=tokens - steps,
            num_accept_tokens=tokens,
            decode_seconds=seconds,
            sum_xx=tokens**2 / n * 1.1,
            sum_yy=seconds**2 / n * 1.1,
            sum_xy=tokens * seconds / n,
        )
    MetricWindow.objects.bulk_create(found.values())
    starts = {row.started_at.timestamp() // HOUR * HOUR for row in found.values()}
    rollups.mark(target.pk, [datetime.fromtimestamp(at, UTC) for at in sorted(starts)])


def answers(target, until):
    """Everything that reads windows, over ranges with ragged ends."""
    since = until - HOURS * 3600 + 1234
    begin, end = (datetime.fromtimestamp(at, UTC) for at in (since, until))
    found = {
        "series": by_version.curve(target, 2),
        "served": by_version.served_by_domain(target, [1, 2, 3]),
        "strata": read_strata(target, begin, end),
        "summary": metrics.summary(target, since=since, until=until),
        "one domain": metrics.summary(target, since=since, until=until, domain="sql"),
    }
    for bucket in (60, 300, 1800, HOUR, 21600, 86400):
        found[f"points {bucket}"] = charts.points(target, since, until, bucket)
        found[f"speedups {bucket}"] = charts.speedups(target, since, until, bucket)
        found[f"domains {bucket}"] = domains.read_sums(target, begin, end, bucket)
    return found


def same(a, b):
    """Equal, floats to their last digits: a sum depends on the order of its terms."""
    if isinstance(a, float):
        return a == pytest.approx(b, rel=1e-9)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in a.__dataclass_fields__)
    return a == b


@pytest.mark.django_db
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2, 3))])
def test_every_answer_is_the_same_with_and_without_roll_ups(target, seed):
    fill(target, seed)
    until = time.time() - 77
    before = answers(target, until)
    assert rollups.refresh(timezone.now()) >= HOURS - 2
    assert RollUpHour.objects.filter(is_fresh=True).exists()
    after = answers(target, until)
    assert [name for name in before if not same(before[name], after[name])] == []


@pytest.mark.django_db
def test_whole_hours_are_read_from_the_roll_ups(target):
    fill(target, 1)
    rollups.refresh(timezone.now())
    MetricWindow.objects.filter(started_at__lt=timezone.now() - timedelta(hours=2)).delete()
    until = time.time()
    by_hour = charts.points(target, until - 20 * 3600, until, HOUR)
    assert len({point["at"] for point in by_hour}) > 15
    assert charts.points(target, until - 20 * 3600, until - 3 * 3600, 60) == [], "minutes come from the windows"


@pytest.mark.django_db
def test_late_counts_are_seen_at_once_and_summed_again(target):
    late = count_window()
    long_ago = time.time() - 5 * 3600
    metrics.ingest_counts({"counts": [{**late.to_json(), "started_at": long_ago - 1, "ended_at": long_ago}]})
    metrics.roll_up()
    assert rollups.refresh(timezone.now()) == 1
    assert MetricRollUp.objects.filter(width=HOUR).get().num_requests == 20
    asked = {"since": long_ago - 8000, "until": long_ago + 8000}
    assert metrics.summary(target, **asked)["total"]["counts"]["num_requests"] == 20
    again = count_window(n=5)
    metrics.ingest_counts({"counts": [{**again.to_json(), "started_at": long_ago - 1, "ended_at": long_ago}]})
    metrics.roll_up()
    assert metrics.summary(target, **asked)["total"]["counts"]["num_requests"] == 25, "before the next refresh"
    assert rollups.refresh(timezone.now()) == 1
    assert rollups.refresh(timezone.now()) == 0, "nothing has changed since"
    assert MetricRollUp.objects.filter(width=HOUR).get().num_requests == 25
    assert metrics.summary(target, **asked)["total"]["counts"]["num_requests"] == 25


@pytest.mark.django_db
def test_sums_are_read_once_until_one_of_their_hours_is_summed_again(target):
    fill(target, 2)
    rollups.refresh(timezone.now())
    until = time.time()
    first = charts.points(target, until - 20 * 3600, until, HOUR)
    with CaptureQueriesContext(connection) as asked:
        assert charts.points(target, until - 20 * 3600, until, HOUR) == first
    assert [query["sql"] for query in asked if "metrics_metricrollup" in query["sql"]] == []
    hour = RollUpHour.objects.filter(is_fresh=True, started_at__gt=timezone.now() - timedelta(hours=15)).earliest(
        "started_at"
    )
    MetricWindow.objects.filter(started_at__gte=hour.started_at).update(num_requests=0)
    rollups.mark(target.pk, [hour.started_at])
    rollups.refresh(timezone.now())
    again = charts.points(target, until - 20 * 3600, until, HOUR)
    assert again != first
    assert sum(p["num_requests"] for p in again if p["at"] == hour.started_at.timestamp()) == 0


@pytest.mark.django_db
def test_an_hour_is_summed_only_when_it_has_ended(target):
    metrics.ingest_counts({"counts": [count_window().to_json()]})
    metrics.roll_up()
    now = datetime.fromtimestamp(time.time() // HOUR * HOUR, UTC)
    assert rollups.refresh(now + timedelta(seconds=HOUR + 30)) == 0, "rows may still be under way"
    assert rollups.refresh(now + timedelta(seconds=2 * HOUR)) >= 1


@pytest.mark.django_db
def test_what_is_forgotten_is_forgotten_in_whole_hours(target, settings):
    fill(target, 2, hours=60)
    rollups.refresh(timezone.now())
    settings.FIGURE_DAYS = 1
    metrics.forget(timezone.now())
    oldest = min(MetricWindow.objects.values_list("started_at", flat=True)).timestamp()
    assert oldest >= (time.time() - 86400) // HOUR * HOUR
    assert (
        min(MetricRollUp.objects.filter(width=HOUR).values_list("started_at", flat=True)).timestamp() >= oldest - HOUR
    )
    until = time.time() - 3600
    before = answers(target, until)
    RollUpHour.objects.update(is_fresh=False)
    assert same(before, answers(target, until))


@pytest.mark.django_db(transaction=True)
def test_a_refresh_does_not_call_an_hour_fresh_that_somebody_is_changing(target):
    fill(target, 3, hours=6)
    rollups.refresh(timezone.now())
    hour = RollUpHour.objects.filter(is_fresh=True).first()
    reached, go_on = threading.Event(), threading.Event()

    def change():
        with transaction.atomic():
            MetricWindow.objects.filter(started_at__gte=hour.started_at).update(num_requests=1)
            rollups.mark(target.pk, [hour.started_at])
            reached.set()
            go_on.wait(60)
        connection.close()

    changing = threading.Thread(target=change)
    changing.start()
    assert reached.wait(60)
    assert rollups.refresh(timezone.now()) == 0, "the hour is being changed"
    go_on.set()
    changing.join()
    assert not RollUpHour.objects.get(pk=hour.pk).is_fresh
    assert rollups.refresh(timezone.now()) == 1


def test_the_longest_roll_up_that_fits_is_chosen():
    widths = {bucket: rollups.width_for(bucket) for bucket in charts.STEPS}
    assert widths == {
        10: 10,
        30: 10,
        60: 10,
        120: 10,
        300: 300,
        600: 300,
        1800: 300,
        3600: 3600,
        7200: 3600,
        21600: 3600,
    }


@pytest.mark.django_db
def test_targets_do_not_see_each_others_sums(target):
    other = Target.objects.create(slug="other", name="other", created_by="test", architecture="X", num_layers=1,
                                  hidden_size=1, vocab_size=1)  # fmt: skip
    fill(target, 6)
    rollups.refresh(timezone.now())
    assert charts.points(other, time.time() - 86400, time.time(), HOUR) == []
    assert metrics.summary(other, since=time.time() - 86400)["total"]["counts"]["num_requests"] == 0


@pytest.mark.django_db
@pytest.mark.parametrize("seconds", [1800, 3 * 3600, 35_995, 86400, 28 * 3600])
def test_shifts_read_from_the_charts_points_are_those_read_for_themselves(target, seconds):
    fill(target, 7)
    rollups.refresh(timezone.now())
    until = time.time()
    data = chart_data(target, until - seconds, until)
    assert data["buckets"] and data["events"] == markers(target, until - seconds, until + 10)


@pytest.mark.django_db
def test_a_shift_is_the_same_from_the_charts_points(target):
    now = time.time() // 10 * 10
    for i in range(60):
        MetricWindow.objects.create(
            target=target, started_at=datetime.fromtimestamp(now - 10 * i, UTC), domain="sql" if i < 30 else "prose",
            version=1, lookahead=4, batch_bucket=1, num_requests=9, num_verify_steps=5, num_proposed_drafts=20,
            num_correct_drafts=4, num_accept_tokens=9, decode_seconds=1, sum_xx=1, sum_yy=1, sum_xy=1,
        )  # fmt: skip
    found = chart_data(target, now - 1800, now + 5)["events"]
    assert any(event["kind"] == "shift" for event in found)
    assert found == markers(target, now - 1800, now + 15)
