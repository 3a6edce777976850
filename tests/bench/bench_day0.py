"""Day 0 and a hard shift, measured from outside.

``python -m tests.bench.bench_day0 --domain sql --shift-to json_tools``

A real Aurora is started in a fresh directory. A target is registered through the API; the clock starts with its first
request. One client sends one request at a time, a random half of them without speculation (x-aurora-control), so both
sides are interleaved in one run. At ``--shift-at`` seconds all traffic changes its domain. Speedup is the ratio of the
medians of tokens/s (engine time) over the last ``--window`` requests of each side. Afterwards the version that was live
at the shift (frozen) and the one live at the end (adapted) are compared on held-out prompts, in one interleaved run
inside one engine, on the second domain.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Tokenizer

from serving.pocket.report import distinct_3gram_share
from serving.traffic.domains.registry import get_domain
from tests.bench.frozen import compare_versions
from tests.bench.machine import machine
from tests.bench.measure import Served, accept_length, reached, speedup, windows
from tests.bench.ring import Ring, temporary_ring, wait_for


class Client:
    """Sends one request after another to one engine and keeps what the usage block says."""

    def __init__(self, engine_url: str, tokenizer: Tokenizer, max_tokens: int, temperature: float) -> None:
        self.http = httpx.Client(base_url=engine_url, timeout=120.0)
        self.tokenizer = tokenizer
        self.body = {"max_tokens": max_tokens, "temperature": temperature}
        self.model = self.http.get("/v1/models").json()["data"][0]["id"]
        self.served: list[Served] = []
        self.started = time.monotonic()
        self.lottery = random.Random(0)

    def run(self, domain: str, seed: int, seconds: float) -> None:
        """Traffic of one domain until ``seconds`` after the client's start."""
        for prompt in get_domain(domain).prompts(seed):
            if time.monotonic() - self.started >= seconds:
                return
            self._ask(domain, prompt.text)

    def _ask(self, domain: str, text: str) -> None:
        body = {**self.body, "model": self.model, "prompt": text}
        headers = {"x-aurora-domain": domain, "x-aurora-control": str(self.lottery.randrange(2))}
        answer = self.http.post("/v1/completions", json=body, headers=headers)
        answer.raise_for_status()
        payload = answer.json()
        facts = payload["usage"]["speculative"]
        self.served.append(
            Served(
                at=time.monotonic() - self.started,
                domain=domain,
                version=facts["version"],
                is_control=facts["is_control"],
                tokens_per_second=facts["num_accept_tokens"] / facts["decode_seconds"],
                num_accept_tokens=facts["num_accept_tokens"],
                num_verify_steps=facts["num_verify_steps"],
                output_ids=tuple(self.tokenizer.encode(payload["choices"][0]["text"]).ids),
            )
        )


def register(ring: Ring, target_dir: Path, slug: str) -> str:
    """Register a target as an operator does, and return its engine's address."""
    ring.post(
        "/targets",
        {
            "slug": slug,
            "name": f"Benchmark {slug}",
            "path": str(target_dir),
            "policy": {"approval": "automatic"},
            "traffic_enabled": False,
        },
    )
    return str(wait_for("the engine", lambda: engine_url(ring, slug), 90))


def engine_url(ring: Ring, slug: str) -> str | None:
    """Address of the replica that serves the random version 1 of a target, once it reports that."""
    for replica in ring.get(f"/targets/{slug}/replicas"):
        if replica["version"]:
            return str(replica["url"])
    return None


def live_version(ring: Ring, slug: str) -> dict[str, Any]:
    """The version that is live now."""
    versions: list[dict[str, Any]] = ring.get(f"/targets/{slug}/versions", limit=100)["items"]
    return next(each for each in versions if each["status"] == "live")


def summary(served: list[Served], since: float, window: int) -> dict[str, Any]:
    """The figures of one phase; times count from its beginning."""
    points = [(at - since, ratio) for at, ratio in windows(served, window)]
    last = served[-4 * window :]
    return {
        "domain": served[0].domain,
        "num_requests": len(served),
        "first_speedup": round(points[0][1], 2) if points else None,
        "seconds_to_1.0x": reached(points, 1.0),
        "seconds_to_1.5x": reached(points, 1.5),
        "seconds_to_2.0x": reached(points, 2.0),
        "end_speedup": speedup(last),
        "end_accept_length": accept_length(last),
        "distinct_3gram_share": round(distinct_3gram_share([each.output_ids for each in served]), 3),
    }


def run(ring: Ring, given: argparse.Namespace) -> dict[str, Any]:
    """One day-0 run, with a shift where one is asked for."""
    target_dir = Path(ring.state_dir / "models" / "pocket")
    slug = f"bench-{given.domain.replace('_', '-')}"
    client = Client(
        register(ring, target_dir, slug),
        Tokenizer.from_file(str(target_dir / "tokenizer.json")),
        given.max_tokens,
        given.temperature,
    )
    seed = time.time_ns() % 10**8
    client.started = time.monotonic()
    shift_at = given.shift_at if given.shift_to else given.seconds
    client.run(given.domain, seed, shift_at)
    result: dict[str, Any] = {"machine": machine(), "day0": summary(client.served, 0.0, given.window)}
    if given.shift_to:
        frozen, before = live_version(ring, slug), len(client.served)
        client.run(given.shift_to, seed, given.seconds)
        result["shift"] = summary(client.served[before:], shift_at, given.window)
        adapted = live_version(ring, slug)
        prompts = [each.text for each in islice(get_domain(given.shift_to).prompts(seed, "heldout"), given.heldout)]
        result["frozen_against_adapted"] = compare_versions(
            target_dir, {"frozen": frozen["uri"], "adapted": adapted["uri"]}, prompts, given.max_tokens
        )
    check(client.served)
    return result


def check(served: list[Served]) -> None:
    """A speedup above the accept length is a broken measurement."""
    ratio, length = speedup(served), accept_length(served)
    if ratio is not None and length is not None and ratio > length * 1.05:
        raise AssertionError(f"speedup {ratio:.2f} exceeds accept length {length:.2f}: the measurement is broken")


def main() -> None:
    """Read the command line, run, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domain", required=True)
    parser.add_argument("--shift-to")
    parser.add_argument("--shift-at", type=float, default=90.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=180.0, help="the whole run")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--window", type=int, default=8, help="requests on each side")
    parser.add_argument("--heldout", type=int, default=24, help="prompts for frozen against adapted")
    given = parser.parse_args()
    with temporary_ring() as ring:
        ring.patch("/targets/pocket", {"traffic_enabled": False})
        print(json.dumps(run(ring, given), indent=2))


if __name__ == "__main__":
    main()
