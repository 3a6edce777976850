"""One real Aurora for the integration tests: everything that `make up` starts."""

import pytest

from tests.bench.ring import temporary_ring


@pytest.fixture(scope="module")
def ring():
    """With a Postgres and a Valkey of its own, as whoever starts it has."""
    with temporary_ring(DATABASE_URL="", REDIS_URL="") as found:
        found.post("/targets/pocket/training/pause", {"reason": "until random weights have been measured"})
        found.patch("/targets/pocket", {"traffic_mix": {"sql": 1}, "traffic_schedule": []})
        yield found
