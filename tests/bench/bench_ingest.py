"""Traces into the console over its API, and nothing lost when it is killed: `python -m tests.bench.bench_ingest`.

A real Aurora; clients post segment announcements as an engine's poster does: one after another, again until they are
acknowledged. Rate: rows acknowledged per second before the kill; the trainer takes its share of the cores for what
arrives, unless ``--paused``. Then the console is killed with SIGKILL under load; at the end every acknowledged trace
must be in the database, and none twice.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import threading
import time
import uuid
from typing import Any

import httpx

from speculators.records import SegmentManifest, StepRecord, TraceRecord
from tests.bench.machine import machine
from tests.bench.ring import Ring, temporary_ring, wait_for

TRACES_PER_SEGMENT = 64
TOKENS = 160
IDS = 1024  # of the pocket target


def announcement(rng: random.Random) -> dict[str, Any]:
    """A segment with traces of the size that the demo makes (about 2 KB each)."""
    segment_id = uuid.uuid4().hex
    steps = tuple(StepRecord(tuple(rng.randrange(IDS) for _ in range(4)), 2) for _ in range((TOKENS - 65) // 3))
    traces = [
        TraceRecord(
            trace_id=uuid.uuid4().hex,
            target="pocket",
            domain="bench",
            version=0,
            tokens=tuple(rng.randrange(IDS) for _ in range(65 + 3 * len(steps))),
            prompt_len=64,
            temperature=0.0,
            finish_reason="length",
            started_at=time.time(),
            decode_seconds=0.4,
            lookahead=4,
            steps=steps,
            segment_id=segment_id,
        )
        for _ in range(TRACES_PER_SEGMENT)
    ]
    manifest = SegmentManifest(
        segment_id, "pocket", "bench", f"/nowhere/{segment_id}", "0" * 64, 1, len(traces), 1, (1, 5, 8), 256, "float16",
        time.time(),
    )  # fmt: skip
    return {"segment": manifest.to_json(), "traces": [trace.to_json() for trace in traces]}


class Poster(threading.Thread):
    """Posts until told to stop; what was begun is finished."""

    def __init__(self, ring: Ring, token: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[tuple[float, list[str]]] = []
        self.stopping = threading.Event()
        self._http = httpx.Client(base_url=str(ring.console.base_url), headers={"Authorization": f"Bearer {token}"})
        rng = random.Random(seed)
        self._payloads = [announcement(rng) for _ in range(4)]

    def run(self) -> None:
        turn = 0
        while not self.stopping.is_set():
            payload = self._fresh(self._payloads[turn % len(self._payloads)])
            turn += 1
            body = json.dumps(payload).encode()
            while not self._post(body):
                time.sleep(0.1)
            self.acknowledged.append((time.monotonic(), [trace["trace_id"] for trace in payload["traces"]]))

    @staticmethod
    def _fresh(payload: dict[str, Any]) -> dict[str, Any]:
        """The same content under new ids."""
        segment_id = uuid.uuid4().hex
        traces = [trace | {"trace_id": uuid.uuid4().hex, "segment_id": segment_id} for trace in payload["traces"]]
        return {"segment": payload["segment"] | {"segment_id": segment_id}, "traces": traces}

    def _post(self, body: bytes) -> bool:
        try:
            answer = self._http.post("/ingest/segments", content=body, headers={"content-type": "application/json"})
        except httpx.TransportError:
            return False
        if answer.status_code >= 500:
            return False
        answer.raise_for_status()
        return True


def run(ring: Ring, seconds: float, num_posters: int, is_paused: bool) -> dict[str, Any]:
    ring.patch("/targets/pocket", {"traffic_enabled": False})
    if is_paused:
        ring.post("/targets/pocket/training/pause")
    token = ring.manage("create_token", "--role", "replica", "--name", "bench").split()[-1]
    posters = [Poster(ring, token, seed) for seed in range(num_posters)]
    started = time.monotonic()
    for poster in posters:
        poster.start()
    time.sleep(seconds)
    killed = time.monotonic()
    ring.kill("aurora_web.asgi:application", signal.SIGKILL)
    time.sleep(seconds)
    for poster in posters:
        poster.stopping.set()
    for poster in posters:
        poster.join(120)
    batches = [batch for poster in posters for batch in poster.acknowledged]
    ids = [trace_id for _, batch in batches for trace_id in batch]
    before = sum(len(batch) for at, batch in batches if at <= killed)
    wait_for("the console again", lambda: ring.get("/targets"), 60)
    stored = ring.one("SELECT count(*) FROM traces_trace WHERE trace_id = ANY(%s::uuid[])", ids)
    distinct = ring.one("SELECT count(DISTINCT trace_id) FROM traces_trace WHERE domain = 'bench'")
    rows = ring.one("SELECT count(*) FROM traces_trace WHERE domain = 'bench'")
    return {
        "machine": machine(),
        "posters": num_posters,
        "training_paused": is_paused,
        "rows_per_second": round(before / (killed - started)),
        "acknowledged": len(ids),
        "acknowledged_and_lost": len(ids) - stored,
        "stored_twice": rows - distinct,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=12.0, help="before and after the kill")
    parser.add_argument("--posters", type=int, default=4)
    parser.add_argument("--paused", action="store_true", help="no training meanwhile")
    given = parser.parse_args()
    with temporary_ring() as ring:
        facts = run(ring, given.seconds, given.posters, given.paused)
        print(json.dumps(facts, indent=2))
        if facts["acknowledged_and_lost"] or facts["stored_twice"] or not facts["acknowledged"]:
            raise AssertionError("acknowledged traces were lost or stored twice, or there were none")


if __name__ == "__main__":
    main()
