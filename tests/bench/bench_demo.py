"""The demo left to itself, as `make up` starts it: `python -m tests.bench.bench_demo --demo smollm2 --seconds 3600`.

Every ``--every`` seconds a JSON line about the time since the line before, from the console's own figures: the live
version and its accept length by replay at the largest lookahead, as the gate saw it; over all domains and for each of
them accept length, tokens/s, speedup over the control with its 95 % interval, requests on either side; and the memory
of all processes together (proportional set size). Before them the seconds until the console was ready, at the first
start and at a second one; after them the distinct-3-gram share of each domain's latest 100 outputs, and which versions
were rejected or rolled back, and why.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from serving.pocket.report import distinct_3gram_share
from tests.bench.machine import machine
from tests.bench.ring import Ring, running_ring, wait_for

READY = re.compile(r"ready after ([\d.]+) s")
_UNDONE = """
SELECT v.number, t.new, t.actor, t.reason
FROM registry_transition t JOIN registry_speculatorversion v ON v.id = t.version_id
WHERE t.new IN ('rejected', 'rolled_back') ORDER BY t.at
"""
_LATEST = "SELECT tokens[prompt_len + 1:] FROM traces_trace WHERE domain = %s ORDER BY started_at DESC LIMIT 100"


def figures(row: dict[str, Any]) -> dict[str, Any]:
    """One row of the console's summary, short."""
    speedup = row["speedup"]
    return {
        "accept_length": rounded(row["accept_length"]),
        "tokens_per_second": rounded(row["tokens_per_second"]),
        "without": rounded(row["control_tokens_per_second"]),
        "speedup": [rounded(speedup[key]) for key in ("value", "low", "high")],
        "requests": [row["counts"]["num_requests"], row["control_counts"]["num_requests"]],
    }


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def look(ring: Ring, slug: str, began: float, since: float) -> dict[str, Any]:
    """What was measured since then, and the versions now."""
    versions = ring.get(f"/targets/{slug}/versions", limit=500)["items"]
    summary = ring.get(f"/targets/{slug}/metrics", since=since)
    live = next((v for v in versions if v["status"] == "live"), None)
    return {
        "after_seconds": round(time.time() - began),
        "live": live and live["number"],
        "held_out": live and held_out(live["report"]),
        "versions": Counter(v["status"] for v in versions),
        "memory_mib": memory_mib(ring),
        "all": figures(summary["total"]),
        **{row["domain"]: figures(row) for row in summary["domains"] if row["counts"]["num_requests"]},
    }


def held_out(report: dict[str, Any] | None) -> list[float] | None:
    """[accept length by replay, lookahead, traces] over all domains; None where nothing was held out yet."""
    if not report:
        return None
    rows = report["candidate"]
    length = sum(row["num_accept_tokens"] for row in rows) / sum(row["num_verify_steps"] for row in rows)
    return [round(length, 2), report["lookahead"], sum(row["num_traces"] for row in rows)]


def distinct_3grams(ring: Ring) -> dict[str, float]:
    """Of the latest outputs of each domain that was captured: a low share means text that repeats itself."""
    domains = [name for (name,) in ring.rows("SELECT DISTINCT domain FROM traces_trace ORDER BY 1")]
    return {each: round(distinct_3gram_share([row[0] for row in ring.rows(_LATEST, each)]), 3) for each in domains}


def keep_live(ring: Ring, slug: str, folder: Path) -> None:
    """Copy the live version's checkpoint, in place of an earlier one."""
    versions = ring.get(f"/targets/{slug}/versions", limit=500)["items"]
    live = next(version for version in versions if version["status"] == "live")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(live["uri"], folder)


def memory_mib(ring: Ring) -> int:
    """Memory of every process of the ring: what several share is divided among them."""
    kilobytes = 0
    for pid in {*ring.pids(""), *processes_below(ring.state_dir)}:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has ended
        kilobytes += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return kilobytes // 1024


def processes_below(folder: Path) -> set[int]:
    """Processes that work in this directory or name it: the database's have another environment."""
    found = set()
    for each in Path("/proc").iterdir():
        try:
            if each.name.isdigit() and (
                str(folder).encode() in (each / "cmdline").read_bytes()
                or (each / "cwd").resolve().is_relative_to(folder)
            ):
                found.add(int(each.name))
        except OSError:
            continue
    return found


def seconds_to_ready(folder: Path, demo: str) -> float:
    """One start and stop."""
    with running_ring(folder, demo=demo) as ring:
        return said(ring)


def said(ring: Ring) -> float:
    """What `make up` says: console and engine answer."""
    log = ring.state_dir / "up.log"
    return float(wait_for("all of it", lambda: READY.search(log.read_text()), 600)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", default="smollm2", choices=["smollm2", "pocket"])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--every", type=float, default=300.0)
    parser.add_argument("--keep", type=Path, help="directory for the checkpoint that is live at the end")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aurora-bench-") as name:
        Path(name).chmod(0o755)  # Postgres runs as nobody where we are root
        first = seconds_to_ready(Path(name), given.demo)
        with running_ring(Path(name), demo=given.demo) as ring:
            began = since = time.time()
            print(json.dumps({"machine": machine(), "first_start": first, "second_start": said(ring)}), flush=True)
            while since - began < given.seconds:
                time.sleep(given.every)
                print(json.dumps(look(ring, given.demo, began, since)), flush=True)
                since = time.time()
            if given.keep:
                keep_live(ring, given.demo, given.keep)
            print(json.dumps({"distinct_3grams": distinct_3grams(ring)}), flush=True)
            for number, status, actor, reason in ring.rows(_UNDONE):
                print(json.dumps({status: number, "by": actor, "because": reason}), flush=True)


if __name__ == "__main__":
    main()
