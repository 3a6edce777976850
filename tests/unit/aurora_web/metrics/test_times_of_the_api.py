"""Times in the API's addresses: Unix seconds or ISO 8601, nothing for "", and a problem for whatever is no time."""

import time
from datetime import UTC, datetime

import pytest

from aurora_web.metrics import services as metrics
from tests.unit.aurora_web.conftest import count_window

pytestmark = pytest.mark.django_db
PLACES = ("metrics", "series", "audit", "traces")


@pytest.fixture
def get(client, bearer, target):
    headers = bearer("viewer")

    def asked(place, query):
        path = "/api/v1/audit" if place == "audit" else f"/api/v1/targets/{target.slug}/{place}"
        return client.get(f"{path}?{query}", **headers)

    return asked


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300", "soon", "2026-13-01"])
def test_what_is_no_time_is_named(get, place, value):
    answer = get(place, f"since={value}")
    assert answer.status_code == 422
    assert "since" in answer.json()["detail"] and repr(value) in answer.json()["detail"]
    assert "2026-05-01T14:30" in answer.json()["detail"] and "Unix seconds" in answer.json()["detail"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", ["", "0", "1750000000.5", "2026-05-01", "2026-05-01T14:30", "2026-05-01T14:30:00Z"])
def test_what_is_a_time_is_taken(get, place, value):
    assert get(place, f"since={value}&until=").status_code == 200


def test_an_empty_value_is_as_none(get):
    assert get("metrics", "domain=&since=").json().keys() == get("metrics", "").json().keys()


def test_both_forms_mean_the_same(get):
    metrics.ingest_counts({"counts": [count_window().to_json()]})
    metrics.roll_up()
    then = datetime.fromtimestamp(int(time.time()) - 300, UTC)
    forms = (f"{then.timestamp():.0f}", f"{then:%Y-%m-%dT%H:%M:%S}", f"{then:%Y-%m-%dT%H:%M:%SZ}")
    sums = [get("metrics", f"since={form}").json()["total"] for form in forms]
    assert sums[0]["accept_length"] and sums[0] == sums[1] == sums[2]
    assert get("metrics", f"domain=&since={forms[0]}").json()["total"] == sums[0]


def test_a_body_has_no_numbers_that_json_has_not(client, bearer, target):
    answer = client.patch(f"/api/v1/targets/{target.slug}", '{"settings": {"control_share": NaN}}',
                          content_type="application/json", **bearer("operator"))  # fmt: skip
    assert answer.status_code == 400
