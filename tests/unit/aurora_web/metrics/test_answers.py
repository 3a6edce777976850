"""What is answered about figures, domains and slices, against the API's document."""

from dataclasses import asdict, replace
from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.metrics import domains_api, services, slices
from aurora_web.traces.services import ingest_segment
from tests.unit.aurora_web.conftest import count_window, segment_payload
from tests.unit.aurora_web.documented import as_json

pytestmark = pytest.mark.django_db
HOUR = 3600.0


@pytest.fixture
def measured(target):
    """Windows of v1 and of the control in two domains, and of another mix an hour before."""
    windows = [
        count_window(version=version, domain=domain, n=n, seconds=seconds)
        for version, seconds in ((1, 1.0), (0, 2.0))
        for domain, n in (("sql", 60), ("prose", 20))
    ]
    earlier = [count_window(domain=domain, n=n) for domain, n in (("sql", 10), ("prose", 90))]
    for window in earlier:
        windows.append(replace(window, started_at=window.started_at - HOUR, ended_at=window.ended_at - HOUR))
    services.ingest_counts({"counts": [window.to_json() for window in windows]})
    services.roll_up()


def test_figures_and_the_series(ask, target, measured):
    found = ask("GET", "/targets/{slug}/metrics", slug="demo")
    assert found == as_json(services.summary(target, since=found["since"], until=found["until"]))
    assert [line["domain"] for line in found["domains"]] == ["prose", "sql"]
    assert found["total"]["batch_buckets"][0]["counts"]["num_requests"] == 80
    points = ask("GET", "/targets/{slug}/series", slug="demo")
    assert {point["domain"] for point in points} == {"prose", "sql"}
    assert points == as_json(services.series(target))


def test_domains_have_lines_trend_and_drift(ask, target, measured):
    found = ask("GET", "/targets/{slug}/domains", slug="demo")
    expected = domains_api.domain_figures(target, "24h")
    assert found["trend"] == expected["trend"]
    assert found["domains"] == as_json([asdict(line) for line in expected["domains"]])
    assert {drift["what"] for drift in found["drift"]} == {"share"}
    assert found["domains"][0]["cells"][0]["version"] == 1


def test_slices_name_their_worst_traces(ask, target):
    for _ in range(4):
        ingest_segment(segment_payload(num_traces=8))
    found = ask("GET", "/targets/{slug}/slices", slug="demo")
    expected, num_traces = slices.worst_slices(target, timezone.now() - timedelta(hours=24))
    assert (found["slices"], found["num_traces"]) == (as_json([asdict(each) for each in expected]), num_traces)
    assert len(found["slices"][0]["trace_ids"]) == slices.NUM_EXAMPLES
