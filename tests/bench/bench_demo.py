"""The demo left to itself over its first shift of the traffic: `python -m tests.bench.bench_demo --seconds 600`.

A real Aurora as `make up` starts it; after five minutes its traffic goes from three generated domains to real text.
Prints a JSON line every half minute: versions by status, the live one, and per domain what the last 40 seconds measured
(accept length of the speculative requests, their tokens/s over those of the control, requests of either). The control
has a few requests in that time, so a single speedup says little. At the end: what was rolled back, and why.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from typing import Any

from tests.bench.machine import machine
from tests.bench.ring import Ring, temporary_ring

EVERY_SECONDS = 30.0
_LATEST = """
SELECT domain, version = 0, sum(num_accept_tokens)::float, sum(num_verify_steps)::float, sum(decode_seconds),
       sum(num_requests)::int
FROM metrics_metricwindow WHERE started_at > now() - interval '40 seconds' GROUP BY 1, 2 ORDER BY 1, 2
"""
_UNDONE = """
SELECT v.number, t.actor, t.reason FROM registry_transition t JOIN registry_speculatorversion v ON v.id = t.version_id
WHERE t.new = 'rolled_back' ORDER BY t.at
"""


def domains(ring: Ring) -> dict[str, dict[str, Any]]:
    """{domain: accept length, speedup and requests of the last windows}; None where nothing was measured."""
    sums: dict[str, dict[bool, list[Any]]] = {}
    for domain, is_control, *measured in ring.rows(_LATEST):
        sums.setdefault(domain, {})[is_control] = measured
    found = {}
    for domain, sides in sums.items():
        tokens, steps, seconds, num = sides.get(False, (0, 0, 0, 0))
        control_tokens, _, control_seconds, num_control = sides.get(True, (0, 0, 0, 0))
        both = seconds and control_tokens and control_seconds
        found[domain] = {
            "accept_length": round(tokens / steps, 2) if steps else None,
            "speedup": round(tokens / seconds / (control_tokens / control_seconds), 2) if both else None,
            "requests": [num, num_control],
        }
    return found


def look(ring: Ring, began: float) -> dict[str, Any]:
    versions = ring.get("/targets/pocket/versions", limit=500)["items"]
    return {
        "after_seconds": round(time.monotonic() - began),
        "live": next((v["number"] for v in versions if v["status"] == "live"), None),
        "versions": Counter(v["status"] for v in versions),
        "domains": domains(ring),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    given = parser.parse_args()
    with temporary_ring() as ring:
        print(json.dumps({"machine": machine()}), flush=True)
        began = time.monotonic()
        while time.monotonic() - began < given.seconds:
            time.sleep(EVERY_SECONDS)
            print(json.dumps(look(ring, began)), flush=True)
        for number, actor, reason in ring.rows(_UNDONE):
            print(json.dumps({"rolled_back": number, "by": actor, "because": reason}), flush=True)


if __name__ == "__main__":
    main()
