import pytest

from aurora_web.metrics import services
from aurora_web.metrics.models import CountRow, MetricWindow
from aurora_web.registry.services import UnknownTarget
from speculators.records import RecordError
from tests.unit.aurora_web.conftest import count_window

pytestmark = pytest.mark.django_db


def ingest(*windows):
    return services.ingest_counts({"counts": [w.to_json() for w in windows]})


def test_a_window_counts_once_however_often_it_comes(target):
    window = count_window()
    assert ingest(window) == (1, 0)
    assert ingest(window) == (0, 1)
    assert services.roll_up() == 1
    assert ingest(window) == (0, 1)
    assert services.roll_up() == 0
    assert MetricWindow.objects.get().num_requests == 20


def test_windows_add_up(target):
    ingest(*(count_window(n=10) for _ in range(3)), count_window(n=10, version=2))
    services.roll_up()
    total = sum(row.num_requests for row in MetricWindow.objects.all())
    assert total == 40
    assert not CountRow.objects.filter(rolled_up_at=None).exists()


def test_a_bad_window_refuses_all_of_them(target):
    good, bad = count_window().to_json(), count_window().to_json() | {"num_requests": -1}
    with pytest.raises(RecordError, match="num_requests"):
        services.ingest_counts({"counts": [good, bad]})
    with pytest.raises(UnknownTarget, match="other"):
        services.ingest_counts({"counts": [good, count_window().to_json() | {"target": "other"}]})
    with pytest.raises(RecordError, match=r"CountWindow\.version: expected .* got -2"):
        services.ingest_counts({"counts": [good, count_window(version=-2).to_json()]})
    assert CountRow.objects.count() == 0


def test_summary_divides_sums(target):
    ingest(count_window(version=3, tokens=100, seconds=0.5), count_window(version=0, tokens=100, seconds=1.0))
    services.roll_up()
    total = services.summary(target)["total"]
    assert total["tokens_per_second"] == pytest.approx(200, rel=0.02)
    assert total["control_tokens_per_second"] == pytest.approx(100, rel=0.02)
    assert total["speedup"]["value"] == pytest.approx(2.0, rel=0.02)
    assert total["speedup"]["low"] < 2.0 < total["speedup"]["high"]
    assert total["accept_length"] == pytest.approx(2.0, rel=0.01)
    assert total["control_counts"]["num_requests"] == 20


def test_speedup_compares_within_a_batch_size(target):
    """Speculation ran mostly at batch 4, the control mostly alone: like is compared with like."""
    ingest(
        count_window(version=1, bucket=4, seconds=2.0, n=100),  # 50 tokens/s each, four at once
        count_window(version=0, bucket=4, seconds=3.0, n=10),
        count_window(version=0, bucket=1, seconds=1.0, n=100),
    )
    services.roll_up()
    assert services.summary(target)["total"]["speedup"]["value"] == pytest.approx(1.5, rel=0.03)


def test_domains_are_told_apart_and_filtered(target):
    ingest(count_window(domain="sql"), count_window(domain="prose", n=7))
    services.roll_up()
    found = services.summary(target)
    assert [(row["domain"], row["counts"]["num_requests"]) for row in found["domains"]] == [("prose", 7), ("sql", 20)]
    assert services.summary(target, domain="prose")["total"]["counts"]["num_requests"] == 7


def test_nothing_measured_is_none_not_zero(target):
    total = services.summary(target)["total"]
    assert total["accept_length"] is None
    assert total["tokens_per_second"] is None
    assert total["speedup"]["value"] is None


def test_series_holds_counts_per_window_and_domain(target):
    ingest(count_window(version=2, tokens=100, seconds=0.5), count_window(version=0))
    services.roll_up()
    [point] = services.series(target, since=0)
    assert point["tokens"] == MetricWindow.objects.get(version=2).num_accept_tokens
    assert point["control_seconds"] > 0
    assert point["version"] == 2
