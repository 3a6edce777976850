"""The traffic of all engines: one sender each, as the console's plans (or one fixed plan) have it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from serving.traffic.plan import Plan
from serving.traffic.prompts import Prompts
from serving.traffic.sender import Counts, Sender

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
REPORT_SECONDS = 15.0
LONGEST_TEXT = 500  # characters of an error in a report

AskForPlans = Callable[[httpx.AsyncClient], Awaitable[Sequence[Plan]]]
TellCounts = Callable[[httpx.AsyncClient, Mapping[str, Counts]], Awaitable[None]]


class ConsolePlans:
    """Asks the console; while it is away, or for a target whose plan cannot be read, the last ones go on."""

    def __init__(self, console_url: str, token: str) -> None:
        self._url = f"{console_url}/api/v1/traffic"
        self._tell_url = f"{console_url}/api/v1/ingest/traffic"
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._read: dict[str, tuple[Any, Plan | None]] = {}  # slug -> what the console said, and what it means
        self._problems: dict[str, str] = {}  # slug -> why its plan cannot be read
        self._is_away = False

    async def __call__(self, http: httpx.AsyncClient) -> Sequence[Plan]:
        try:
            answer = await http.get(self._url, headers=self._headers, timeout=10.0)
            answer.raise_for_status()
            payloads = {str(payload["slug"]): payload for payload in answer.json()["targets"]}
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            if not self._is_away:
                log.warning("no traffic plan from the console, going on with the last one: %s", error)
            self._is_away = True
        else:
            self._is_away = False
            self._read = {slug: self._meaning(slug, payload) for slug, payload in payloads.items()}
        return [plan for _, plan in self._read.values() if plan is not None]

    async def tell(self, http: httpx.AsyncClient, counts: Mapping[str, Counts]) -> None:
        """Tell the console what was sent and what failed; while it is away, the next report is a new one."""
        rows = []
        for slug in self._read:
            row = {"slug": slug, **counts.get(slug, Counts()).to_json(), "problem": self._problems.get(slug, "")}
            rows.append({name: _sendable(value) for name, value in row.items()})
        with contextlib.suppress(httpx.HTTPError):  # that it is away was said when it was asked
            await http.post(self._tell_url, headers=self._headers, json={"targets": rows}, timeout=10.0)

    def _meaning(self, slug: str, payload: Any) -> tuple[Any, Plan | None]:
        """What was said before is not read, and not complained about, again."""
        before, plan = self._read.get(slug, (None, None))
        if payload != before:
            self._problems.pop(slug, None)
            try:
                plan = Plan.from_json(payload)
            except ValueError as error:
                self._problems[slug] = str(error)
                log.warning("%s goes on as before: %s", slug, error)
        return payload, plan


def _sendable(value: Any) -> Any:
    """A text as the console takes it, whatever a server has answered; anything else as it is."""
    if not isinstance(value, str):
        return value
    return value.encode(errors="replace").decode()[:LONGEST_TEXT].replace("\0", "")


class Traffic:
    """Keeps one sender for each plan."""

    def __init__(
        self, ask: AskForPlans, seed: int, sent_file: Path | None = None, tell: TellCounts | None = None
    ) -> None:
        self._ask = ask
        self._tell = tell
        self._prompts = Prompts(seed, sent_file)
        self._rng = random.Random(seed)
        self._senders: dict[str, Sender] = {}

    async def run(self) -> None:
        """Until cancelled."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=120.0, trust_env=False, limits=limits) as http:
            reporter = asyncio.create_task(self._report_forever(http))
            try:
                while True:
                    await self._follow(await self._ask(http), http)
                    await asyncio.sleep(POLL_SECONDS)
            finally:
                reporter.cancel()
                for sender in self._senders.values():
                    await sender.stop()

    async def _follow(self, plans: Sequence[Plan], http: httpx.AsyncClient) -> None:
        for plan in plans:
            if plan.slug not in self._senders:
                self._senders[plan.slug] = Sender(http, self._prompts, plan, self._rng)
            self._senders[plan.slug].update(plan)
        for slug in self._senders.keys() - {plan.slug for plan in plans}:
            await self._senders.pop(slug).stop()

    async def _report_forever(self, http: httpx.AsyncClient) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            counts = {slug: sender.counts for slug, sender in self._senders.items()}
            for slug, sender in self._senders.items():
                if sender.counts.num_requests or sender.counts.num_failures:
                    log.info("%s: %s", slug, sender.counts)
                sender.counts = Counts()
            if self._tell is not None:
                await self._tell(http, counts)
