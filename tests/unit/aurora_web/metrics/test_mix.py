"""The mix of the traffic now; its shifts are tested with the charts."""

import time
from dataclasses import replace

import pytest

from aurora_web.metrics import services
from aurora_web.metrics.mix import latest_requests
from tests.unit.aurora_web.conftest import count_window

pytestmark = pytest.mark.django_db


@pytest.fixture
def served(target):
    """served(ago, domain, n): n requests so many seconds ago."""

    def make(ago, domain, n, **changes):
        ended = time.time() - ago
        window = replace(count_window(domain=domain, n=n, **changes), started_at=ended - 1, ended_at=ended)
        services.ingest_counts({"counts": [window.to_json()]})
        services.roll_up()

    return make


def test_without_traffic_there_is_no_mix(target):
    assert latest_requests(target) == {}


def test_with_little_traffic_it_is_that_of_the_last_hour(target, served):
    served(3900, "sql", 50)
    served(3000, "sql", 30)
    served(60, "prose", 20)
    served(60, "prose", 5, version=0)  # blocks of steps of the same requests
    assert latest_requests(target) == {"sql": 30, "prose": 20}


def test_after_a_shift_it_is_soon_that_of_now_alone(target, served):
    served(300, "sql", 400)
    served(100, "prose", 60)
    assert latest_requests(target) == {"sql": 400, "prose": 60}
    served(50, "code", 60)
    assert latest_requests(target) == {"prose": 60, "code": 60}
