"""The tokens that Prometheus counts: exact whatever is sent twice or deleted, and never less than before."""

import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from aurora_web.metrics import services as metrics
from aurora_web.metrics.models import MetricWindow, TokenTotal
from tests.bench.ring import wait_for
from tests.unit.aurora_web.conftest import count_window


def told(client):
    """{domain: tokens} as /metrics says."""
    lines = client.get("/metrics").content.decode().splitlines()
    found = [line for line in lines if line.startswith("aurora_accept_tokens_total{")]
    return {line.split('domain="')[1].split('"')[0]: float(line.split()[-1]) for line in found}


def is_locked():
    """Whether somebody waits for a lock of this database."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock')"
        )
        return cursor.fetchone()[0]


def send(*windows):
    metrics.ingest_counts({"counts": [window.to_json() for window in windows]})


@pytest.mark.django_db
def test_every_count_is_in_the_total_once(client, target):
    sql, prose, more = count_window(domain="sql"), count_window(domain="prose"), count_window(domain="sql", n=5)
    send(sql, prose)
    assert told(client) == {}, "nothing is rolled up yet"
    metrics.roll_up()
    assert told(client) == {"sql": sql.num_accept_tokens, "prose": prose.num_accept_tokens}
    send(sql, more)  # the first once again, as after an answer that was lost
    metrics.roll_up()
    metrics.roll_up()
    assert told(client) == {"sql": sql.num_accept_tokens + more.num_accept_tokens, "prose": prose.num_accept_tokens}


@pytest.mark.django_db
def test_the_total_stays_when_windows_are_deleted(client, target):
    window = count_window(domain="sql")
    send(window)
    metrics.roll_up()
    metrics.forget(timezone.now() + timedelta(days=10_000))
    assert not MetricWindow.objects.exists()
    assert told(client) == {"sql": window.num_accept_tokens}
    send(count_window(domain="sql", n=5))
    metrics.roll_up()
    assert told(client)["sql"] > window.num_accept_tokens


@pytest.mark.django_db
def test_a_roll_up_that_fails_leaves_the_total_as_it_was(client, target, monkeypatch):
    send(count_window())

    def broken(*given):
        raise RuntimeError("the worker was stopped")

    with monkeypatch.context() as patch:
        patch.setattr(metrics.rollups, "mark", broken)
        with pytest.raises(RuntimeError):
            metrics.roll_up()
    assert told(client) == {}
    metrics.roll_up()
    assert sum(told(client).values()) == sum(row.num_accept_tokens for row in MetricWindow.objects.all())


@pytest.mark.django_db(transaction=True)
def test_roll_ups_side_by_side_lose_nothing(target):
    """The second one waits for the first one's total, and adds to what it finds then."""
    send(count_window(domain="sql"))
    reached, go_on = threading.Event(), threading.Event()

    def first():
        with transaction.atomic():
            metrics.roll_up()
            reached.set()
            go_on.wait(60)
        connection.close()

    def second():
        metrics.roll_up()
        connection.close()

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert reached.wait(60)
    send(count_window(domain="sql", n=5))
    threads[1].start()
    wait_for("the second one at the lock", lambda: is_locked() or not threads[1].is_alive(), 60, every=0.01)
    assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(60)
    summed = sum(row.num_accept_tokens for row in MetricWindow.objects.all())
    assert TokenTotal.objects.get(domain="sql").num_accept_tokens == summed > 0
