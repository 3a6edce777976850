"""``make bench``: every benchmark in turn, each a process of its own; facts go to ``tests/bench/output/NAME.json``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

OUTPUT = Path(__file__).parent / "output"

DAY0 = [sys.executable, "-m", "tests.bench.bench_day0"]
BENCHMARKS = {
    "costs": [sys.executable, "-m", "tests.bench.bench_costs"],
    "costs_pocket": [sys.executable, "-m", "tests.bench.bench_costs", "--model", "pocket", "--prompts", "8"],
    "plain": [sys.executable, "-m", "tests.bench.bench_plain"],
    "day0_sql_to_json_tools": [*DAY0, "--domain", "sql", "--shift-to", "json_tools"],
    "day0_arithmetic_to_sql": [*DAY0, "--domain", "arithmetic", "--shift-to", "sql"],
    "ingest": [sys.executable, "-m", "tests.bench.bench_ingest"],
    "pages": [sys.executable, "-m", "tests.bench.bench_pages"],
    "live": [sys.executable, "-m", "tests.bench.bench_live"],
    "watchers": [sys.executable, "-m", "tests.bench.bench_watchers"],
}


def main() -> int:
    """Run the chosen benchmarks (all of them without a name) and say which failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    given = parser.parse_args()
    unknown = set(given.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"unknown benchmark {sorted(unknown)}; known: {', '.join(BENCHMARKS)}")
    OUTPUT.mkdir(exist_ok=True)
    failed = []
    for name in given.names or BENCHMARKS:
        started = time.monotonic()
        print(f"== {name}", flush=True)
        with (OUTPUT / f"{name}.json").open("w", encoding="utf-8") as file:
            code = subprocess.run(BENCHMARKS[name], stdout=file, check=False).returncode
        print((OUTPUT / f"{name}.json").read_text(encoding="utf-8"), flush=True)
        print(f"== {name}: exit {code} after {time.monotonic() - started:.0f} s", flush=True)
        if code:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all benchmarks ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
