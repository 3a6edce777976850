"""One real Aurora for the integration tests: everything that `make up` starts."""

import pytest

from tests.bench.ring import running_ring
from tests.services import new_database


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ring")
    folder.parent.chmod(0o755)
    folder.chmod(0o755)
    with running_ring(folder, DATABASE_URL=new_database()) as found:
        found.post("/targets/pocket/training/pause", {"reason": "until random weights have been measured"})
        found.patch("/targets/pocket", {"traffic_mix": {"sql": 1}, "traffic_schedule": []})
        yield found
