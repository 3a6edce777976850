"""The whole ring with real parts: it learns, and nothing acknowledged is lost whoever is killed.

The tests run in this order on one ring: each begins where the one before left it, as in a day's operation.
"""

import json
import os
import signal
import subprocess
import sys

import httpx
import openai

from tests.bench.ring import REPO, wait_for

SQL = "SELECT"


def engine_url(ring):
    return f"http://127.0.0.1:{ring.engine_port}"


def live_version(ring):
    found = [v for v in ring.get("/targets/pocket/versions")["items"] if v["status"] == "live"]
    return found[0] if found else None


def newest(ring):
    return ring.get("/targets/pocket/versions")["items"][0]["number"]


def num_finished(ring):
    """Requests that the engine says it has counted (since its start)."""
    text = httpx.get(engine_url(ring) + "/metrics", timeout=30).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("aurora_requests_total{"))


def gauge(ring, name):
    text = httpx.get(engine_url(ring) + "/metrics", timeout=30).text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " "))


def accept_length(ring, numbers, at_least=20):
    """Measured over the requests that these versions have served; None while there are fewer than ``at_least``."""
    [(num_requests, length)] = ring.rows(
        "SELECT sum(num_requests), sum(num_accept_tokens)::float / nullif(sum(num_verify_steps), 0)"
        " FROM metrics_countrow WHERE version = ANY(%s)",
        numbers,
    )
    return length if (num_requests or 0) >= at_least else None


def test_a_trained_version_goes_live_and_more_of_its_drafts_are_right(ring):
    first = wait_for("day 0", lambda: live_version(ring), 120)
    assert first["report"] is None  # random weights, which serve until training is resumed
    random = wait_for("requests with random weights", lambda: accept_length(ring, [first["number"]]), 240)
    ring.post("/targets/pocket/training/resume")

    def better():
        trained = [v["number"] for v in ring.get("/targets/pocket/versions", limit=200)["items"] if v["report"]]
        length = accept_length(ring, trained)
        return length if length and length > random else None

    wait_for(f"trained versions above random weights ({random:.2f})", better, 480, every=1.0)


def test_what_is_loaded_is_proved(ring):
    def proved():
        version = live_version(ring)
        replica = ring.rows("SELECT version, sha256, state FROM rollouts_replica")
        return version and replica == [(version["number"], version["sha256"], "serving")]

    wait_for("the replica's proof", proved, 60)
    transitions = ring.rows("SELECT actor, reason FROM registry_transition WHERE new = 'live'")
    assert transitions
    assert all(actor and reason for actor, reason in transitions)


def test_the_public_client_is_served(ring):
    client = openai.OpenAI(base_url=engine_url(ring) + "/v1", api_key="none")
    answer = client.completions.create(model="pocket", prompt=SQL, max_tokens=16, temperature=0)
    assert answer.choices[0].text


def test_a_pin_reaches_the_engine_with_its_next_report(ring):
    wait_for("a version at work", lambda: ring.rows("SELECT 1 FROM rollouts_replica WHERE version > 0"), 60)
    pin = ring.put("/targets/pocket/domains/pinned/pin", {"speculation_off": True, "no_training": True})
    revision = wait_for(
        "the replica to run it",
        lambda: ring.get("/targets/pocket/domains/pinned/pin")["obeying"] and pin["revision"],
        60,
    )
    client = openai.OpenAI(base_url=engine_url(ring) + "/v1", api_key="none")
    answer = client.completions.create(
        model="pocket", prompt=SQL, max_tokens=8, temperature=0, extra_headers={"x-aurora-domain": "pinned"}
    )
    counted = "SELECT version > 0, lookahead, num_proposed_drafts, num_accept_tokens FROM metrics_countrow"
    [row] = wait_for("its counts", lambda: ring.rows(counted + " WHERE domain = 'pinned'"), 60)
    assert row == (True, 0, 0, answer.usage.completion_tokens - 1)
    assert ring.one("SELECT count(*) FROM traces_trace WHERE domain = 'pinned'") == 0
    assert revision == ring.one("SELECT pins_revision FROM rollouts_replica")


def test_killing_the_trainer_in_mid_slice_loses_nothing(ring):
    def running_slice():
        rows = ring.rows("SELECT id FROM training_trainingslice WHERE state = 'running' AND num_fresh > 0")
        return rows[0][0] if rows else None

    slice_id = wait_for("a running slice", running_slice, 60, every=0.05)
    leased = [row[0] for row in ring.rows("SELECT trace_id FROM traces_trace WHERE lease_id = %s", slice_id)]
    assert leased
    before = newest(ring)
    ring.kill("trainer@")
    wait_for(
        "the slice given up",
        lambda: (
            ring.one("SELECT state FROM training_trainingslice WHERE id = %s", slice_id) in ("lost", "failed", "done")
        ),
        120,
    )
    wait_for("a later version", lambda: newest(ring) > before, 180)
    still_there = ring.one("SELECT count(*) FROM traces_trace WHERE trace_id = ANY(%s)", leased)
    assert still_there == len(leased)
    # Trained on, or free for a later slice: which of the two depends on how much newer traffic there is.
    held = "SELECT count(*) FROM traces_trace WHERE lease_id = %s AND trained_at IS NULL"
    assert ring.one(held, slice_id) == 0
    run = ring.rows("SELECT count(*) FROM training_trainingrun")
    assert run == [(1,)]  # the same lineage went on


def test_killing_the_console_during_traffic_loses_nothing(ring):
    spool = ring.state_dir / "spool" / "pocket-embedded"
    before = num_finished(ring)
    ring.kill("aurora_web.asgi:application")
    during = num_finished(ring)  # the engine serves on
    wait_for("requests served meanwhile", lambda: num_finished(ring) > during, 60)
    wait_for("the console again", ring.is_ready, 60)
    ring.patch("/targets/pocket", {"traffic_enabled": False})
    assert num_finished(ring) > before
    wait_for("the end of the traffic", lambda: "nothing is sent any more" in ring.log("traffic"), 60)
    wait_for("the last request", lambda: gauge(ring, "aurora_requests_running") == 0, 60)
    wait_for("an empty spool", lambda: not list(spool.glob("*.json")), 60)
    counted = "SELECT coalesce(sum(num_requests), 0) FROM metrics_countrow"
    wait_for("every request counted, once", lambda: ring.one(counted) == num_finished(ring), 60)


def test_killing_the_engine_with_an_unsent_spool_loses_nothing(ring):
    spool = ring.state_dir / "spool" / "pocket-embedded"
    consoles = ring.kill("aurora_web.asgi:application", signal.SIGSTOP)  # away, and not restarted
    try:
        client = openai.OpenAI(base_url=engine_url(ring) + "/v1", api_key="none")
        for _ in range(6):
            client.completions.create(model="pocket", prompt=SQL, max_tokens=24, temperature=1.0)
        wait_for(
            "unsent announcements", lambda: [p for p in spool.glob("*.json") if not p.name.startswith("counts-")], 60
        )
        waiting = [json.loads(p.read_text()) for p in spool.glob("*.json") if not p.name.startswith("counts-")]
        promised = [trace["trace_id"] for payload in waiting for trace in payload["traces"]]
        assert promised
        ring.kill("-m serving --target")
    finally:
        for pid in consoles:
            os.kill(pid, signal.SIGCONT)
    wait_for(
        "every announced trace",
        lambda: (
            ring.one("SELECT count(*) FROM traces_trace WHERE trace_id = ANY(%s::uuid[])", promised) == len(promised)
        ),
        90,
    )
    wait_for("the engine again", lambda: ring.rows("SELECT state FROM rollouts_replica") == [("serving",)], 60)


def test_the_ring_goes_on_after_all_of_it(ring):
    ring.patch("/targets/pocket", {"traffic_enabled": True})
    before = newest(ring)
    wait_for("another version", lambda: newest(ring) > before, 180)
    assert "Traceback" not in ring.log("web").replace("CancelledError", "")


def test_a_second_up_says_where_the_first_one_runs(ring):
    done = subprocess.run(
        [sys.executable, "-m", "aurora_web.supervisor", "up"],
        cwd=REPO, env=ring.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert f"http://127.0.0.1:{ring.web_port}" in done.stdout


def test_down_stops_it_cleanly_and_leaves_nothing_running(ring):
    servers = ("bin/postgres", "valkey-server")
    assert all(ring.pids(each) for each in servers)
    done = subprocess.run(
        ["make", "down"],
        cwd=REPO, env=ring.environment, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "stopped" in done.stdout
    assert ring.process.wait(60) == 0
    assert ring.pids("") == []
    assert "nothing is left running" in (ring.state_dir / "up.log").read_text()
