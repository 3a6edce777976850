"""Demo traffic: a client of the engine's public API like any other: ``python -m serving.traffic``.

What to send (how many at once, which domains, when the mix shifts) is read from the console's ``GET /traffic``, so a
person can change it there. A schedule is a list of phases ``{"seconds": 120, "mix": {domain: weight}}``, one after
another and then from the start again. Survives restarts of the engine and of the console.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from serving.config import ConfigError
from serving.traffic.config import TrafficConfig, load
from serving.traffic.domains.base import Prompt
from serving.traffic.domains.registry import DOMAINS

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
RETRY_SECONDS = 1.0
REPORT_SECONDS = 30.0
SAMPLED_TEMPERATURE = 0.8
SEED_MODULUS = 10**9  # the corpus trains on seeds from here on


@dataclass(frozen=True, slots=True)
class Plan:
    """What one engine is to get; made by the console."""

    slug: str
    engine_url: str
    enabled: bool
    concurrency: int
    requests_per_second: float  # 0 = as fast as the concurrency allows
    mix: Mapping[str, float]
    max_tokens: int
    sampled_share: float
    schedule: tuple[tuple[float, Mapping[str, float]], ...] = ()

    @classmethod
    def from_json(cls, payload: Mapping[str, Any]) -> Plan:
        """Raises ValueError naming what is wrong."""
        try:
            schedule = [(float(e["seconds"]), _mix(e["mix"])) for e in payload.get("schedule") or ()]
            return cls(
                slug=str(payload["slug"]),
                engine_url=str(payload["engine_url"]).rstrip("/"),
                enabled=bool(payload["enabled"]),
                concurrency=max(1, int(payload["concurrency"])),
                requests_per_second=float(payload["requests_per_second"]),
                mix=_mix(payload["mix"]),
                max_tokens=int(payload["max_tokens"]),
                sampled_share=float(payload["sampled_share"]),
                schedule=tuple(phase for phase in schedule if phase[0] > 0),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"traffic plan {payload!r:.200}: {type(error).__name__} {error}") from error

    def mix_at(self, seconds: float) -> Mapping[str, float]:
        """The weights ``seconds`` after the schedule began."""
        if not self.schedule:
            return self.mix
        rest = seconds % sum(length for length, _ in self.schedule)
        for length, mix in self.schedule:
            if rest < length:
                return mix
            rest -= length
        return self.schedule[-1][1]


def _mix(payload: Mapping[str, Any]) -> dict[str, float]:
    """Weights of the known domains; every domain alike when nothing is left."""
    unknown = set(payload) - set(DOMAINS)
    if unknown:
        log.warning("unknown domains %s are left out; known are %s", sorted(unknown), sorted(DOMAINS))
    weights = {name: float(weight) for name, weight in payload.items() if name in DOMAINS and float(weight) > 0}
    return weights or dict.fromkeys(DOMAINS, 1.0)


class Prompts:
    """Prompts of every domain that were never sent before: the seed is the time of the start."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._sources: dict[str, Iterator[Prompt]] = {}

    def next(self, domain: str) -> Prompt:
        """The next one; when real text has run out it starts again in another order."""
        for _ in range(2):
            if domain not in self._sources:
                self._sources[domain] = DOMAINS[domain].prompts(self._seed % SEED_MODULUS)
                self._seed += 1
            prompt = next(self._sources[domain], None)
            if prompt is not None:
                return prompt
            del self._sources[domain]
        raise ValueError(f"domain {domain!r} has no prompts")


@dataclass(slots=True)
class Counts:
    """Since the last report."""

    num_requests: int = 0
    num_failures: int = 0
    num_tokens: int = 0
    started_at: float = field(default_factory=time.monotonic)


class Sender:
    """Keeps ``concurrency`` requests to one engine in the air."""

    def __init__(self, http: httpx.AsyncClient, prompts: Prompts, plan: Plan, rng: random.Random) -> None:
        self.plan = plan
        self.counts = Counts()
        self._http = http
        self._prompts = prompts
        self._rng = rng
        self._tasks: list[asyncio.Task[None]] = []
        self._schedule_began = time.monotonic()
        self._next_at = 0.0

    def update(self, plan: Plan) -> None:
        """Follow a new plan from the next request on; a changed schedule starts at its beginning."""
        if plan.schedule != self.plan.schedule:
            self._schedule_began = time.monotonic()
        self.plan = plan
        wanted = plan.concurrency if plan.enabled else 0
        self._tasks = [task for task in self._tasks if not task.done()]
        for task in self._tasks[wanted:]:
            task.cancel()
        missing = range(len(self._tasks), wanted)
        self._tasks = self._tasks[:wanted] + [asyncio.create_task(self._send_forever()) for _ in missing]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send_forever(self) -> None:
        while True:
            await self._keep_to_the_rate()
            try:
                self.counts.num_tokens += await self._send()
                self.counts.num_requests += 1
            except (httpx.HTTPError, ValueError) as error:
                self.counts.num_failures += 1
                log.debug("%s: %s", self.plan.engine_url, error)
                await asyncio.sleep(RETRY_SECONDS * self._rng.uniform(0.5, 1.5))

    async def _keep_to_the_rate(self) -> None:
        if self.plan.requests_per_second <= 0:
            return
        now = time.monotonic()
        start = max(now, self._next_at)
        self._next_at = start + 1.0 / self.plan.requests_per_second
        await asyncio.sleep(start - now)

    async def _send(self) -> int:
        """One request; returns its completion tokens."""
        mix = self.plan.mix_at(time.monotonic() - self._schedule_began)
        [domain] = self._rng.choices(list(mix), weights=list(mix.values()))
        is_sampled = self._rng.random() < self.plan.sampled_share
        answer = await self._http.post(
            f"{self.plan.engine_url}/v1/completions",
            json={
                "model": self.plan.slug,
                "prompt": self._prompts.next(domain).text,
                "max_tokens": self.plan.max_tokens,
                "temperature": SAMPLED_TEMPERATURE if is_sampled else 0.0,
            },
            headers={"x-aurora-domain": domain},
        )
        answer.raise_for_status()
        return int(answer.json()["usage"]["completion_tokens"])


class Traffic:
    """Follows the console's plans; the last known ones go on while it is away."""

    def __init__(self, config: TrafficConfig, seed: int) -> None:
        self._url = f"{config.console_url}/api/v1/traffic"
        self._headers = {"authorization": f"Bearer {config.token}"} if config.token else {}
        self._prompts = Prompts(seed)
        self._rng = random.Random(seed)
        self._http = httpx.AsyncClient(timeout=120.0, trust_env=False, limits=httpx.Limits(max_connections=None))
        self._senders: dict[str, Sender] = {}
        self._is_away = False

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self._poll()
                self._report()
                await asyncio.sleep(POLL_SECONDS)
        finally:
            for sender in self._senders.values():
                await sender.stop()
            await self._http.aclose()

    async def _poll(self) -> None:
        try:
            answer = await self._http.get(self._url, headers=self._headers, timeout=10.0)
            answer.raise_for_status()
            plans = [Plan.from_json(target) for target in answer.json()["targets"]]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            if not self._is_away:
                log.warning("no traffic plan from the console, going on with the last one: %s", error)
            self._is_away = True
            return
        self._is_away = False
        for plan in plans:
            if plan.slug not in self._senders:
                self._senders[plan.slug] = Sender(self._http, self._prompts, plan, self._rng)
            self._senders[plan.slug].update(plan)
        for slug in self._senders.keys() - {plan.slug for plan in plans}:
            await self._senders.pop(slug).stop()

    def _report(self) -> None:
        for slug, sender in self._senders.items():
            counts = sender.counts
            seconds = time.monotonic() - counts.started_at
            if seconds >= REPORT_SECONDS:
                rate = counts.num_tokens / seconds
                log.info(
                    "%s: %d requests, %d failed, %.0f tokens/s", slug, counts.num_requests, counts.num_failures, rate
                )
                sender.counts = Counts()


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2 for settings that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m serving.traffic", description=__doc__)
    parser.add_argument("--console-url", help="AURORA_CONSOLE_URL")
    parser.add_argument("--token", help="console token of scope ingest; better in AURORA_REPLICA_TOKEN")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        config = load(vars(parser.parse_args(argv)))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(config))
    return 0


async def _run(config: TrafficConfig) -> None:
    await Traffic(config, seed=time.time_ns() // 1000).run()


if __name__ == "__main__":
    sys.exit(main())
