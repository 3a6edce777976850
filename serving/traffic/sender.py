"""The requests to one engine: so many at once, each a prompt with a domain and a temperature.

A prompt is a chat message, unless the engine says that its target has no chat template: then it is plain text.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from serving.traffic.domains.base import Prompt
from serving.traffic.plan import Plan
from serving.traffic.prompts import Prompts

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
SAMPLED_TEMPERATURE = 0.7
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
NO_TEMPLATE = ("has no chat template", "chat_template is not set")  # as the embedded engine says it, and as SGLang does


@dataclass(slots=True)
class Counts:
    """Since the last report."""

    num_requests: int = 0
    num_failures: int = 0
    num_tokens: int = 0
    last_failure: str = ""
    started_at: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        seconds = time.monotonic() - self.started_at
        failed = f", {self.num_failures} failed (the last one: {self.last_failure})" if self.num_failures else ""
        return f"{self.num_requests} requests, {self.num_tokens / seconds:.0f} tokens/s{failed}"

    def to_json(self) -> dict[str, Any]:
        """As the console takes them."""
        return {
            "seconds": time.monotonic() - self.started_at,
            "num_requests": self.num_requests,
            "num_failures": self.num_failures,
            "last_failure": self.last_failure,
        }


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
        self._is_chat = True  # until the engine says that it cannot

    def update(self, plan: Plan) -> None:
        """Follow a new plan from the next request on; a changed schedule starts at its beginning."""
        if plan.schedule != self.plan.schedule:
            self._schedule_began = time.monotonic()
        if plan.engine_url != self.plan.engine_url:  # another engine, or one that has been away
            self._is_chat = True
        self.plan = plan
        wanted = plan.concurrency if plan.enabled and plan.engine_url else 0
        self._tasks = [task for task in self._tasks if not task.done()]
        for task in self._tasks[wanted:]:
            task.cancel()
        if bool(self._tasks) != bool(wanted):
            log.info("%s: %s", plan.slug, "sending" if wanted else "nothing is sent any more")
        missing = range(len(self._tasks), wanted)
        self._tasks = self._tasks[:wanted] + [asyncio.create_task(self._send_forever()) for _ in missing]

    async def stop(self) -> None:
        """Drop what is in the air."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send_forever(self) -> None:
        while True:
            await self._keep_to_the_rate()
            try:
                self.counts.num_tokens += await self._send()
                self.counts.num_requests += 1
            except Exception as error:  # noqa: BLE001 - the sender's top loop: whatever it is, it is told and tried again
                self.counts.num_failures += 1
                self.counts.last_failure = f"{type(error).__name__} {error}"
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
        prompt, temperature = self._prompts.next(domain), SAMPLED_TEMPERATURE if is_sampled else 0.0
        asked = self.plan.engine_url
        answer = await self._ask(prompt, temperature)
        if _has_no_template(answer) and self.plan.engine_url == asked:
            if self._is_chat:
                log.info("%s has no chat template: prompts are sent to %s", self.plan.slug, COMPLETIONS)
            self._is_chat = False
            answer = await self._ask(prompt, temperature)
        if answer.status_code >= 400:
            raise ValueError(f"HTTP {answer.status_code}: {answer.text:.300}")
        return int(answer.json()["usage"]["completion_tokens"])

    async def _ask(self, prompt: Prompt, temperature: float) -> httpx.Response:
        messages = {"messages": [{"role": "user", "content": prompt.message}]}
        return await self._http.post(
            self.plan.engine_url + (CHAT if self._is_chat else COMPLETIONS),
            json={
                "model": self.plan.slug,
                **(messages if self._is_chat else {"prompt": prompt.text}),
                "max_tokens": self.plan.max_tokens,
                "temperature": temperature,
            },
            headers={"x-aurora-domain": prompt.domain},
        )


def _has_no_template(answer: httpx.Response) -> bool:
    return answer.status_code == 400 and any(words in answer.text for words in NO_TEMPLATE)
