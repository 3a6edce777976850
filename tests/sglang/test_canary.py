"""A canary on two real SGLang servers: one runs the version that a person let through, the other the former one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.bench.ring import wait_for
from tests.sglang.launched import SLUG, Clients, Launched, launch_of, ring_in


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    policy = {"approval": "manual", "canary_share": 0.5, "canary_minutes": 10080.0}  # a person ends it
    with ring_in(tmp_path_factory.mktemp("canary"), control_share=0.0, **policy) as found:
        yield found


@pytest.fixture(scope="module")
def servers(ring, tmp_path_factory):
    found = [Launched(tmp_path_factory.mktemp(f"launched{i}"), *launch_of(ring, i)) for i in (1, 2)]
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Launched.start, found))
        yield found
    finally:
        for server in found:
            server.stop()


@pytest.fixture(scope="module")
def clients(servers):
    found = [Clients(server, 3) for server in servers]
    yield found
    for each in found:
        each.stop()


def serving(ring):
    """{replica: (version, checksum)} where all of them run what they are to run, else None."""
    found = ring.get(f"/targets/{SLUG}/replicas")
    is_done = all(each["state"] == "serving" and each["version"] == each["desired_version"] for each in found)
    return {each["name"]: (each["version"], each["sha256"]) for each in found} if is_done else None


def let_through(ring, after):
    """A person approves the first version past ``after`` that has passed the gate."""

    def passed():
        items = ring.get(f"/targets/{SLUG}/versions")["items"]
        return next((each for each in items if each["status"] == "passed" and each["number"] > after), None)

    version = wait_for("a version that passed the gate", passed, 240)
    ring.post(f"/versions/{version['id']}/approve", {"reason": "as a canary"})
    return version


def counted(ring, version):
    """Requests that each replica has counted under a version."""
    rows = ring.rows(
        "SELECT replica, sum(num_requests)::int FROM metrics_countrow WHERE version = %s GROUP BY 1", version
    )
    return dict(rows)


def test_one_runs_it_and_the_other_does_not_until_a_person_decides_and_takes_it_back(ring, servers, clients):
    one = wait_for("both", lambda: (found := serving(ring)) and len(found) == 2 and found, 60)
    assert {version for version, _ in one.values()} == {1}
    first = let_through(ring, 1)
    number, sha256 = first["number"], first["sha256"]
    split = wait_for(
        "the canary", lambda: (now := serving(ring)) and number in [v for v, _ in now.values()] and now, 60
    )
    assert sorted(split.values()) == sorted([one[next(iter(one))], (number, sha256)])
    [canary] = [name for name, (version, _) in split.items() if version == number]
    wait_for("requests under it", lambda: counted(ring, number).get(canary, 0) > 5, 60)
    assert set(counted(ring, number)) == {canary}

    prompt = {"model": SLUG, "prompt": "12 + 30 =", "max_tokens": 24, "temperature": 0}
    texts = [server.http.post("/v1/completions", json=prompt).json()["choices"][0]["text"] for server in servers]
    assert texts[0] == texts[1] != ""

    ring.post(f"/versions/{first['id']}/canary/abort", {"reason": "not this one"})
    wait_for("the former version on both", lambda: serving(ring) == one, 60)

    second = let_through(ring, number)
    wait_for("a canary again", lambda: (now := serving(ring)) and second["number"] in [v for v, _ in now.values()], 60)
    ring.post(f"/versions/{second['id']}/canary/promote", {"reason": "this one"})
    proven = (second["number"], second["sha256"])
    wait_for("it on both", lambda: set((serving(ring) or {}).values()) == {proven}, 60)

    ring.post(f"/targets/{SLUG}/rollback", {"reason": "slower than before"})
    wait_for("the former version on both once more", lambda: serving(ring) == one, 60)
    assert [each.errors for each in clients] == [[], []]
