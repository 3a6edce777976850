"""``make bench``: every benchmark in turn, each a process of its own; its figures go to RESULTS.md.

    python -m tests.bench [--quick] [NAME ...]

What a benchmark printed is kept in ``tests/bench/output/NAME.json`` with commit, date, machine and command; its part of
RESULTS.md is written anew, the others stay. With ``--quick`` those that can take a small part of the time or of the
rows, and nothing is written but what is printed: a look, not a figure to report.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from tests.bench import results
from tests.bench.machine import commit, machine

OUTPUT = results.RESULTS.parent / "output"
DRAFT = OUTPUT / "draft"  # what the hour leaves for the lookaheads
# name -> (module and arguments, arguments of a quick look)
BENCHMARKS = {
    "costs": (["bench_costs"], ["--rounds", "2", "--prompts", "1"]),
    "costs_pocket": (["bench_costs", "--model", "pocket", "--prompts", "8"], ["--rounds", "2", "--prompts", "1"]),
    "plain": (["bench_plain"], ["--rounds", "1"]),
    "vocabulary": (["bench_vocabulary"], ["--answers", "60", "--others", "24"]),
    "start": (["bench_start"], ["--starts", "1"]),
    "hour": (["bench_demo", "--keep", str(DRAFT)], ["--seconds", "120", "--every", "60"]),
    "lookahead": (["bench_lookahead", "--draft", str(DRAFT)], ["--rounds", "1"]),
    "day0_sql_to_json_tools": (["bench_day0", "--domain", "sql", "--shift-to", "json_tools"], []),
    "day0_arithmetic_to_sql": (["bench_day0", "--domain", "arithmetic", "--shift-to", "sql"], []),
    "ingest": (["bench_ingest"], ["--seconds", "4"]),
    "live": (["bench_live"], ["--seconds", "30"]),
    "watchers": (
        ["bench_watchers", "--watchers", "300", "--pages", "--rates", "5", "50", "500"],
        ["--watchers", "25", "--seconds", "5"],
    ),
    "pages": (["bench_pages"], ["--rounds", "5", "--quick"]),
    "sglang": (["bench_sglang"], ["--rounds", "2", "--swaps", "4"]),  # where `make sglang-cpu` has been
    "sglang_gpu": (["bench_sglang"], ["--rounds", "2", "--swaps", "4"]),  # `make bench-sglang DEVICE=cuda`
}


def facts(printed: str) -> Any:
    """One JSON document, or a list of a document per line."""
    try:
        return json.loads(printed)
    except json.JSONDecodeError:
        return [json.loads(line) for line in printed.splitlines() if line]


def measure(name: str, *, is_quick: bool) -> results.Record:
    """Run one benchmark. Raises CalledProcessError where it failed."""
    (module, *arguments), quick = BENCHMARKS[name]
    command = ["-m", f"tests.bench.{module}", *arguments, *(quick if is_quick else [])]
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, check=True, text=True)
    return results.Record(
        name=name,
        command=" ".join(["python", *command]).replace(f"{results.REPO}/", ""),
        commit=commit(),
        date=time.strftime("%d %B %Y").lstrip("0"),
        machine=machine(),
        facts=facts(done.stdout),
    )


def main() -> int:
    """Run the chosen benchmarks (all but SGLang's without a name) and say which failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    unknown = set(given.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"unknown benchmark {sorted(unknown)}; known: {', '.join(BENCHMARKS)}")
    OUTPUT.mkdir(exist_ok=True)
    failed = []
    for name in given.names or [each for each in BENCHMARKS if not each.startswith("sglang")]:
        started = time.monotonic()
        print(f"== {name}", flush=True)
        try:
            record = measure(name, is_quick=given.quick)
        except subprocess.CalledProcessError as error:
            print(f"== {name}: exit {error.returncode} after {time.monotonic() - started:.0f} s", flush=True)
            failed.append(name)
            continue
        print(results.rendered(record), flush=True)
        if not given.quick:
            record.keep(OUTPUT / f"{name}.json")
            results.write(record)
        print(f"== {name}: {time.monotonic() - started:.0f} s", flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "all benchmarks ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
