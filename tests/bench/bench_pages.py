"""Server time of every page and of the API's GETs on a full console: `python -m tests.bench.bench_pages [--quick]`.

One uvicorn process as in production, on a database with 50 targets, 500 versions, 5 million metric windows and a
million traces (tests/bench/full_database.py); one signed-in client on the loopback asks for each address ``--rounds``
times after a warm-up. Time: from the request to the last byte of the answer, so view, template, database and
compression. Queries are counted in this process. First view: everything that a browser without a cache gets for a page,
as it is sent.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urljoin
from uuid import uuid4

import httpx
from django.urls import get_resolver, resolve

from aurora_web.supervisor.programs import web_command
from tests.bench.full_database import BUSY, FULL, QUICK, environment, full_database, sizes
from tests.bench.machine import machine
from tests.bench.models import prepared
from tests.bench.ring import REPO, free_ports, says_ok, wait_for

LIMIT_MS, AIM_MS = 150.0, 50.0
RESOURCE = re.compile(r'(?:<script src|<link rel="(?:stylesheet|icon)" href|<img src)="([^"]+)"')
PLAN = {
    "start": "random", "approval": "automatic", "approvers": "operator", "min_gain": "0.01",
    "domain_tolerance": "0.1", "min_held_out_traces": "4", "slice_seconds": "8", "control_share": "0.02",
    "max_lookahead": "4", "min_accept_length": "0", "canary_share": "0", "canary_minutes": "5",
    "canary_min_requests": "50",
}  # fmt: skip
LEFT_OUT = {
    "activity/", "settings/", "targets/", "targets/new/", "targets/new/bulk/",  # lead elsewhere
    "targets/<str:slug>/launch/",  # SGLang's targets have it
    "targets/<str:slug>/versions/<int:number>/files/<str:name>", "targets/<str:slug>/traces/export/",  # downloads
}  # fmt: skip
IMPORT = re.compile(r'^import [^"]*"(\./[^"]+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Timed:
    """One address."""

    path: str
    p50_ms: float
    p95_ms: float
    num_queries: int
    bytes_sent: int


def typed_registration(browser: Any, checkpoint: Path) -> str:
    """The address of a registration that somebody has filled in up to its review."""
    address = f"/targets/new/{uuid4()}"
    browser.post(f"{address}/source/", {"source": "embedded", "path": str(checkpoint)})
    browser.post(f"{address}/plan/", PLAN)
    return address


def pages(browser: Any, checkpoint: Path) -> list[str]:
    """Every page of the console that a person can open, and the parts of them that are fetched again.

    ``browser``: signed in; ``checkpoint``: directory of a model that can be registered. Raises AssertionError that
    names an address of the console which none of them has.
    """
    from aurora_web.accounts.models import AuditEvent
    from aurora_web.console.parts import VIEWS
    from aurora_web.registry.models import SpeculatorVersion
    from aurora_web.rollouts.models import Swap
    from aurora_web.traces.models import Trace

    base = f"/targets/{BUSY}"
    live = Swap.objects.filter(target__slug=BUSY).order_by("-generation")[0]
    old = live.number - live.number // 7  # of the traces' days
    trace = Trace.objects.filter(target__slug=BUSY).order_by("-started_at").values_list("trace_id", flat=True)[0]
    month = f"from={time.strftime('%Y-%m-%dT%H:%M', time.gmtime(time.time() - 27 * 86400))}"
    ranges = [f"{base}/{suffix}" for suffix in ("", "?range=24h", f"?{month}")]
    views = [name for name in VIEWS if name != "launch-part"]  # only a target on SGLang has one
    parts = ("connection/", "standing/", "domains/pins/", *(f"parts/?part={name}" for name in views),
             f"parts/?part=tables&{month}", "parts/?range=24h&part=figures&part=tables&part=canary",
             "parts/?range=24h&part=charts-table", "?range=24h&view=table")  # fmt: skip
    about = ("settings/", "rollback/", "versions/", "versions/?page=2", f"versions/{live.number}/",
             *(f"versions/compare/?v={live.number}&v={live.number - 3}{view}" for view in ("", "&view=table")),
             "replicas/", f"swaps/{live.generation}/",
             f"traces/{trace}/", "playground/", "domains/", "domains/?range=7d", "economics/", "economics/?range=28d",
             "economics/csv/?range=28d")  # fmt: skip
    searches = ("", "?domain=sql", f"?domain=sql&version={old}", f"?version={old}", "?domain=none",
                "?min_accept_length=4.7",
                "?min_accept_length=4.99", "?finish_reason=stop&state=waiting",
                "?state=held+out&max_accept_length=1")  # fmt: skip
    registration = typed_registration(browser, checkpoint)
    waiting = SpeculatorVersion.objects.filter(status="passed").order_by("-pk").values_list("pk", flat=True)[0]
    found = [
        "/", "/?sort=speedup", "/?q=target-1", "/inbox/", "/audit/", "/audit/?actor=olga", "/audit/?q=weekly",
        f"/audit/{AuditEvent.objects.order_by('-pk')[0].pk}/",
        "/alerts/", "/alerts/rules/", "/alerts/channels/", "/alerts/silences/new/", "/rollback/",
        "/replicas/", "/approvals/", f"/approvals/{waiting}/", "/system/", "/system/processes/",
        "/settings/preferences/", "/settings/policies/", "/settings/retention/",
        "/help/", "/api/docs", "/accounts/people/", "/accounts/tokens/", "/metrics",
        *(f"{registration}/{step}/" for step in ("source", "check", "plan", "review", "bulk", "servers")),
        *ranges,
        *(f"{base}/{part}" for part in (*parts, *about)),
        *(f"{base}/traces/{search}" for search in searches),
    ]  # fmt: skip
    assert not (missing := _routes() - {resolve(path.split("?")[0]).route for path in found} - LEFT_OUT), missing
    return found


def _routes() -> set[str]:
    """Of every address that answers a signed-in person's GET."""
    return set(_of(get_resolver().url_patterns))


def _of(patterns: Iterable[Any], prefix: str = "") -> Iterator[str]:
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if hasattr(pattern, "url_patterns"):
            yield from _of(pattern.url_patterns, route)
        elif "GET" in getattr(pattern.callback, "allowed_methods", ()):
            yield route


def api_addresses() -> list[str]:
    """Every GET of the API's own document, for the busy target."""
    from aurora_web.accounts.models import AuditEvent
    from aurora_web.rollouts.models import Swap
    from aurora_web.traces.models import Trace

    swap = Swap.objects.filter(target__slug=BUSY).order_by("-generation")[0]
    trace = Trace.objects.filter(target__slug=BUSY).order_by("-started_at").values_list("trace_id", flat=True)[0]
    given = {"slug": BUSY, "trace_id": trace, "generation": swap.generation, "number": swap.number,
             "event_id": AuditEvent.objects.all()[0].pk}  # fmt: skip
    two = f"?v={swap.generation - 3}&v={swap.generation}"
    query = {"series": f"?since={time.time() - 3600}", "compare": two, "curves": two}
    left_out = (
        "{channel_id}",
        "{name}",
        "/export",
        "/engines",
        "/traffic",
        "/launch",
        "/desired",
    )  # nothing there, a file, or a replica's
    document = json.loads((REPO / "docs" / "openapi.json").read_text())
    found = []
    for path, operations in document["paths"].items():
        if "get" in operations and not any(part in path for part in left_out):
            found.append(path.format(**given) + query.get(path.rsplit("/", 1)[-1], ""))
    month = f"from={time.strftime('%Y-%m-%dT%H:%M', time.gmtime(time.time() - 27 * 86400))}"
    charts = f"/api/v1/targets/{BUSY}/charts"
    return [*found, f"{charts}?range=24h", f"{charts}?{month}", f"/api/v1/targets/{BUSY}/domains?range=7d"]


def ask(http: httpx.Client, path: str, rounds: int) -> Timed:
    """Time one address. Raises AssertionError when it does not answer 200."""
    times, size = [], 0
    for turn in range(rounds + 2):
        began = time.perf_counter()
        answer = http.get(path)
        elapsed = (time.perf_counter() - began) * 1000
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:300]}"
        size = answer.num_bytes_downloaded
        times += [elapsed] if turn >= 2 else []
    times.sort()
    p95 = times[math.ceil(0.95 * len(times)) - 1]
    print(f"{p95:8.1f} ms p95 {median(times):8.1f} ms p50 {size / 1024:8.1f} KiB  {path}", file=sys.stderr, flush=True)
    return Timed(path, round(median(times), 1), round(p95, 1), 0, size)


def count_queries(path: str) -> int:
    """How many questions the database is asked for one address."""
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    from aurora_web.accounts.models import User

    client = Client()
    client.force_login(User.objects.get(username="ada"))
    with CaptureQueriesContext(connection) as captured:
        client.get(path)
    return len(captured)


def first_view(http: httpx.Client, path: str) -> dict[str, int]:
    """Bytes that a browser with an empty cache is sent for one page: the page, and all that it names.

    Empty for what is no page: a part of one, a table to download.
    """
    answer = http.get(path)
    if not answer.text.lstrip().lower().startswith("<!doctype html"):
        return {}
    sent = {path: answer.num_bytes_downloaded}
    waiting = [urljoin(path, found) for found in RESOURCE.findall(answer.text)]
    while waiting:
        address = waiting.pop()
        if address in sent:
            continue
        found = http.get(address)
        assert found.status_code == 200, f"{address}: {found.status_code}"
        sent[address] = found.num_bytes_downloaded
        if address.endswith(".js") and "/vendor/" not in address:
            waiting += [urljoin(address, each) for each in IMPORT.findall(found.text)]
    return sent


@contextmanager
def running_console(folder: Path, services: Any) -> Any:
    """The web process; its base address."""
    import os

    (port,) = free_ports(1)
    env = {**os.environ, **environment(folder, services)}
    with (folder / "web.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *web_command("127.0.0.1", port)], env=env, cwd=REPO, stdout=log, stderr=log
        )
    base = f"http://127.0.0.1:{port}"
    try:
        wait_for("the console", lambda: says_ok(f"{base}/readyz"), 60)
        yield base
    finally:
        process.terminate()
        process.wait(20)


def run(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    size = QUICK if given.quick else FULL
    with full_database(folder, size) as services:
        from django.test import Client

        from aurora_web.accounts.models import User

        signed_in = Client()
        signed_in.force_login(User.objects.get(username="ada"))
        cookies = {"sessionid": signed_in.cookies["sessionid"].value}
        seen = pages(signed_in, prepared("pocket"))
        chosen = [path for path in (*seen, *api_addresses()) if given.only in path]
        with (
            running_console(folder, services) as base,
            httpx.Client(base_url=base, cookies=cookies, timeout=60, headers={"Accept-Encoding": "gzip, br"}) as http,
        ):
            timed = [ask(http, path, given.rounds) for path in chosen]
            weights = {path: sent for path in seen if (sent := first_view(http, path))}
        counted = [asdict(t) | {"num_queries": count_queries(t.path)} for t in timed]
        return {
            "machine": machine(),
            "rows": sizes(),
            "rounds": given.rounds,
            "over_limit": [t.path for t in timed if t.p95_ms > LIMIT_MS],
            "over_aim": sum(t.p95_ms > AIM_MS for t in timed),
            "first_view_bytes": {path: sum(sent.values()) for path, sent in weights.items()},
            "heaviest": max(weights.values(), key=lambda sent: sum(sent.values())),
            "pages": sorted(counted, key=lambda each: -each["p95_ms"]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rows")
    parser.add_argument("--only", default="", help="addresses that contain this")
    parser.add_argument("--folder", type=Path, default=REPO / "tests" / "bench" / "output" / "full")
    given = parser.parse_args()
    facts = run(given.folder.resolve(), given)
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
