"""Watchers on one web process: `python -m tests.bench.bench_watchers`.

One uvicorn process with the console, a Postgres and a Valkey of its own; ``--watchers`` sockets on one target's page,
as browsers of one person open them; a publisher sends so many messages a second for ``--seconds`` through the
same ``live.publish`` that the workers use, at one of the ``--rates`` after the other. Every message has to reach every
watcher, in order. Latency: from publish to arrival, on one clock. With ``--pages`` each watcher does what the target's
page does besides: after messages it asks over its socket for the parts that the server draws, every two seconds for the
steady stream, and at once after one in CHANGE_EVERY seconds that is a change of state, as of a replica or an alert. A
part's age: from the publishing of the first message that was not on the page yet to the arrival of the parts that hold
it. A watcher is in time when 95 % of its own messages, of its own parts once asked for, and of the ages of its own
changes of state took a second at most; the ages of the rest are told beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import websockets

from aurora_web.supervisor.programs import web_command
from aurora_web.supervisor.services import Services
from tests.bench.machine import machine
from tests.bench.ring import REPO, free_ports, wait_for

SLUG = "watched"
PARTS = "range=30m&part=figures&part=tables&part=canary&part=replicas&part=standing"
CHANGED_PARTS = "range=30m&part=figures&part=replicas&part=connection&part=standing&part=alerts&part=events-part&after="
PARTS_SECONDS = 2.0
CHANGE_SECONDS = 0.5
CHANGE_EVERY = 3.0
IN_TIME_MS = 1000.0
PREPARE = """
import django; django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.test import Client
from aurora_web.accounts.models import User
from aurora_web.registry.models import Target
target = Target.objects.create(slug="watched", name="watched", path="/nowhere", architecture="LlamaForCausalLM",
                               num_layers=8, hidden_size=32, vocab_size=61, created_by="bench", is_active=False)
client = Client(); client.force_login(User.objects.create(username="bench", role="viewer"))
print(target.pk, client.cookies["sessionid"].value)
"""
PUBLISH = """
import sys, time
import django; django.setup()
from aurora_web import live
pk, rate, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
started, every = time.time(), max(1, round(rate * float(sys.argv[4])))
for i in range(round(rate * seconds)):
    time.sleep(max(0.0, started + i / rate - time.time()))
    live.publish(pk, "bench", {"i": i, "at": time.time(), "is_change": i % every == every - 1})
time.sleep(2)
"""


@dataclass
class Heard:
    """What one watcher got."""

    numbers: list[int] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    num_frames: int = 0
    num_snapshots: int = 0
    fetches: list[float] = field(default_factory=list)  # seconds that the parts took
    change_ages: list[float] = field(default_factory=list)  # seconds from a change of state to the parts with it
    ages: list[float] = field(default_factory=list)  # the same of the first message that was not on the page yet
    undrawn: list[float] = field(default_factory=list)  # when these messages were published
    undrawn_changes: list[float] = field(default_factory=list)
    seq: int = 0  # of the last change of state
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    told: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    parts: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)

    def note(self, seq: int, data: dict[str, Any], now: float) -> None:
        """One message has come."""
        self.numbers.append(data["i"])
        self.latencies.append(now - data["at"])
        self.undrawn.append(data["at"])
        self.told.set()
        if data["is_change"]:
            self.seq = seq
            self.undrawn_changes.append(data["at"])
            self.changed.set()

    def is_in_time(self) -> bool:
        """Whether what this one saw was the newest state, at most a second late."""
        kinds = map(places, (self.latencies, self.fetches, self.change_ages))
        late = [found["p95"] for found in kinds if found]
        return bool(late) and max(late) <= IN_TIME_MS


async def draw(socket: websockets.ClientConnection, heard: Heard) -> None:
    """Ask for the parts after a message, as static/js/target.js does: with a pause, but for changes of state."""
    began = float("-inf")
    while True:
        await heard.told.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, began + PARTS_SECONDS - time.monotonic())):
                await heard.changed.wait()
        if heard.undrawn_changes:
            await asyncio.sleep(max(0.0, began + CHANGE_SECONDS - time.monotonic()))
        messages, changes = heard.undrawn, heard.undrawn_changes
        heard.undrawn, heard.undrawn_changes = [], []
        heard.told.clear()
        heard.changed.clear()
        began = time.monotonic()
        query = f"{CHANGED_PARTS}{heard.seq}" if changes else PARTS
        await socket.send(json.dumps({"kind": "parts", "query": query}))
        frame = await heard.parts.get()
        if frame["status"] != 200:
            raise AssertionError(f"parts: {frame['status']}")
        heard.fetches.append(time.monotonic() - began)
        heard.ages.append(time.time() - messages[0])
        heard.change_ages += [time.time() - at for at in changes]


async def watch(url: str, cookie: str, heard: Heard, gate: asyncio.Semaphore, *, draws: bool) -> None:
    async with gate:
        base = url.replace("ws:", "http:").partition("/ws")[0]
        headers = {"Cookie": f"sessionid={cookie}", "Origin": base}
        socket = await websockets.connect(url, additional_headers=headers, open_timeout=60, max_queue=None)
        await socket.recv()
    heard.num_snapshots += 1
    heard.ready.set()
    drawing = asyncio.create_task(draw(socket, heard)) if draws else None
    async for text in socket:
        frame, now = json.loads(text), time.time()
        heard.num_frames += 1
        heard.num_snapshots += frame["kind"] == "snapshot"
        if frame["kind"] == "parts":
            heard.parts.put_nowait(frame)
        for delta in frame.get("deltas", ()):
            if delta["kind"] == "bench":
                heard.note(delta["seq"], delta["data"], now)
        if drawing is not None and drawing.done():
            drawing.result()  # it never ends but by an error


async def run(given: argparse.Namespace, url: str, cookie: str, publish: list[str], env: dict[str, str]) -> list[Heard]:
    heard = [Heard() for _ in range(given.watchers)]
    gate = asyncio.Semaphore(20)
    tasks = [asyncio.create_task(watch(url, cookie, each, gate, draws=given.pages)) for each in heard]
    everybody = asyncio.gather(*(each.ready.wait() for each in heard))
    await asyncio.wait([everybody, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()  # a socket that could not be opened says why
    publisher = await asyncio.create_subprocess_exec(*publish, env=env, cwd=REPO)
    await publisher.wait()
    await asyncio.sleep(1)
    broken = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if broken:
        raise AssertionError(f"{len(broken)} watchers ended early: {broken[0]}")
    return heard


def facts(heard: list[Heard], given: argparse.Namespace, rate: float, connect_seconds: float) -> dict[str, Any]:
    wanted = list(range(round(rate * given.seconds)))
    latencies = [latency for each in heard for latency in each.latencies]
    fetches = [seconds for each in heard for seconds in each.fetches]
    return {
        "messages_a_second": rate,
        "num_in_time": sum(each.is_in_time() for each in heard),
        "messages_each": len(wanted),
        "messages_lost": sum(len(wanted) - len(set(each.numbers)) for each in heard),
        "out_of_order": sum(each.numbers != sorted(each.numbers) for each in heard),
        "snapshots_after_the_first": sum(each.num_snapshots - 1 for each in heard),
        "most_frames_a_second": round(max(each.num_frames for each in heard) / given.seconds, 1),
        "latency_ms": places(latencies),
        "parts_a_second": round(len(fetches) / given.seconds, 1),
        "parts_ms": places(fetches),
        "change_age_ms": places([age for each in heard for age in each.change_ages]),
        "age_ms": places([age for each in heard for age in each.ages]),
        "seconds_for_all_and_publishing": round(connect_seconds, 1),
    }


def places(seconds: list[float]) -> dict[str, float] | None:
    """p50, p95, p99 and the largest, in milliseconds; None without any."""
    ordered, shares = sorted(seconds), {"p50": 0.5, "p95": 0.95, "p99": 0.99, "most": 1.0}
    last = len(ordered) - 1
    return (
        {name: round(1e3 * ordered[min(last, int(s * len(ordered)))], 1) for name, s in shares.items()}
        if ordered
        else None
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watchers", type=int, default=500)
    parser.add_argument("--rates", type=float, nargs="+", default=[5.0], help="messages a second, each for --seconds")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--pages", action="store_true", help="each watcher fetches the page's parts too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aurora-bench-") as folder:
        Path(folder).chmod(0o755)
        services = Services(Path(folder), Path(folder) / "logs")
        services.start()
        server = None
        try:
            env = {
                **os.environ, "AURORA_STATE_DIR": folder, "DATABASE_URL": services.database_url,
                "REDIS_URL": services.redis_url, "DJANGO_SETTINGS_MODULE": "aurora_web.settings",
                "PYTHONPATH": f"{REPO}:{REPO / 'kernels'}",
            }  # fmt: skip
            made = subprocess.run(
                [sys.executable, "-c", PREPARE], env=env, cwd=REPO, check=True, capture_output=True, text=True
            )
            pk, cookie = made.stdout.split()[-2:]
            (port,) = free_ports(1)
            command = [sys.executable, *web_command("127.0.0.1", port), "--log-level", "warning"]
            server = subprocess.Popen(command, env=env, cwd=REPO)
            wait_for("the console", lambda: _answers(f"http://127.0.0.1:{port}/healthz"), 60)
            found = []
            for rate in given.rates:
                publish = [sys.executable, "-c", PUBLISH, pk, str(rate), str(given.seconds), str(CHANGE_EVERY)]
                started = time.monotonic()
                heard = asyncio.run(run(given, f"ws://127.0.0.1:{port}/ws/targets/{SLUG}", cookie, publish, env))
                found.append(facts(heard, given, rate, time.monotonic() - started))
        finally:
            if server is not None:
                server.terminate()
                server.wait(20)
            services.stop()
    print(json.dumps({"machine": machine(), "watchers": given.watchers, "runs": found}, indent=2))
    if any(each["messages_lost"] or each["out_of_order"] for each in found):
        raise AssertionError("messages were lost or came out of order")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
