"""The console under load: `make bench-web` (`python -m tests.bench.bench_web [--quick]`).

Pages and API on a full database, sockets, ingest and the way from a task to the drawn chart, one after another; prints
the table for RESULTS.md. ``--quick`` takes a twentieth of the rows and of the watchers: a look, not a figure to report.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.bench.machine import machine

PARTS = {
    "pages": (["--rounds", "20"], ["--rounds", "5", "--quick"]),
    "watchers": (["--watchers", "500"], ["--watchers", "25", "--seconds", "5"]),
    "ingest": ([], ["--seconds", "4"]),
    "live": ([], ["--seconds", "30"]),
}
NUM_WORST = 10


def measure(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What one benchmark found. Raises CalledProcessError when it failed."""
    command = [sys.executable, "-m", f"tests.bench.bench_{name}", *arguments]
    print(f"== {' '.join(command[1:])}", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(json.dumps(found), file=sys.stderr, flush=True)  # a later benchmark that fails takes nothing with it
    return found


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """Rows of RESULTS.md: what, at least, aim, measured, command."""
    pages, watchers, ingest, live = (found[name] for name in PARTS)
    worst = pages["pages"][0]
    weight = max(pages["first_view_bytes"].values()) / 1e6
    late = watchers["latency_ms"]
    figures = [
        ("p95 server time, worst of all pages and GETs", "150 ms", "50 ms",
         f"{worst['p95_ms']} ms ({worst['path']}); {len(pages['over_limit'])} of {len(pages['pages'])} addresses over "
         f"150 ms, {pages['over_aim']} over 50 ms", "pages"),
        ("page weight of a first view, packed", "1 MB", "0.6 MB", f"{weight:.2f} MB", "pages"),
        (f"{watchers['watchers']} watchers on one web process, 5 messages/s each: lost; p50 / p95 to arrival", "500, 0",
         "2,000, 0", f"{watchers['messages_lost']}; {late['p50']} / {late['p95']} ms", "watchers"),
        ("trace rows ingested per second", "2,000", "10,000", f"{ingest['rows_per_second']:,}", "ingest"),
        ("acknowledged rows lost or stored twice after a kill", "0", "0",
         f"{ingest['acknowledged_and_lost'] + ingest['stored_twice']} of {ingest['acknowledged']:,}", "ingest"),
        ("task to browser, p50 / p95", "100 ms", "30 ms", _pair(live["task_to_browser_ms"]), "live"),
        ("task to drawn chart, p50 / p95", "500 ms", "300 ms", _pair(live["drawn_ms"]), "live"),
    ]  # fmt: skip
    rows = [
        f"| {what} | {least} | {aim} | {measured} | `python -m tests.bench.bench_{part}` |"
        for what, least, aim, measured, part in figures
    ]
    return ["| what | at least | aim | measured | command |", "|---|---|---|---|---|", *rows, "", *_worst(pages)]


def _pair(figure: dict[str, float]) -> str:
    return f"{figure['p50']} / {figure['p95']} ms"


def _worst(pages: dict[str, Any]) -> list[str]:
    lines = ["| address | p50 | p95 | queries | sent |", "|---|---|---|---|---|"]
    for row in pages["pages"][:NUM_WORST]:
        size = f"{row['bytes_sent'] / 1024:.0f} KiB"
        lines.append(f"| {row['path']} | {row['p50_ms']} ms | {row['p95_ms']} ms | {row['num_queries']} | {size} |")
    return lines


def main() -> None:
    """Measure everything, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    found = {name: measure(name, quick if given.quick else full) for name, (full, quick) in PARTS.items()}
    rows = found["pages"]["rows"]
    counts = ", ".join(f"{rows[name]:,} {name}" for name in ("targets", "versions", "windows", "traces"))
    print(f"{machine()}; {counts}\n")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
