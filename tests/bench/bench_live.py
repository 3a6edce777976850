"""From a task to the browser: `python -m tests.bench.bench_live`.

A real Aurora under its demo traffic, headless Chromium on the target's page, its charts in sight. Two ways: a progress
report from the trainer's process to the loss chart, and counts from the task that sums them to the chart of the accept
length. Latency: from the moment at which the report or the sums were made (their clock; the same machine) to the
arrival of the message in the page, with the database writes and the commit in between. Drawn: to the end of the
drawing of the chart that holds them.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from playwright.sync_api import sync_playwright

from tests.bench.machine import machine
from tests.bench.ring import Ring, temporary_ring

CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SIZE = {"width": 1360, "height": 900}
WAYS = {"loss": "a trainer's report, on the loss chart", "accept": "counts, on the chart of the accept length"}
LISTEN = """
window.heard = [];
const Plain = window.WebSocket;
// What was made at this moment has come: note when its chart holds it.
const follow = (name, made, isDrawn) => {
  const row = { name, latency: Date.now() / 1000 - made, drawn: null };
  window.heard.push(row);
  const chart = document.getElementById(`chart-${name}`);
  const look = () => isDrawn(chart) ? (row.drawn = Number(chart.dataset.drawn) / 1000 - made) : setTimeout(look, 5);
  setTimeout(look, 0);  // after the page itself has heard of it
};
window.WebSocket = class extends Plain {
  constructor(...args) {
    super(...args);
    this.addEventListener("message", (event) => {
      const came = Date.now(), deltas = JSON.parse(event.data).deltas ?? [];
      const progress = deltas.find((delta) => delta.kind === "progress")?.data;
      if (progress?.phase === "train") {
        const last = (chart) => Date.parse(`${chart.data?.[0]?.x.at(-1)}Z`) / 1000;  // UTC, to a millisecond
        follow("loss", progress.reported_at, (chart) => last(chart) >= progress.reported_at - 2e-3);
      }
      const summed = deltas.find((delta) => delta.kind === "windows")?.data.speedups[""]?.at;
      if (summed) follow("accept", summed, (chart) => Number(chart.dataset.drawn) > came);
    });
  }
};
"""
IN_SIGHT = """() => [...document.querySelectorAll(".chart")].filter((chart) => {
  const box = chart.getBoundingClientRect();
  return box.bottom > 0 && box.top < innerHeight;
}).map((chart) => chart.id.slice("chart-".length))"""


def percentile(values: list[float], share: float) -> float:
    """Milliseconds below which this share of the values lies."""
    ordered = sorted(values)
    return round(1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


def of_way(heard: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """What the messages of one way took, in milliseconds."""
    mine = [row for row in heard if row["name"] == name]
    found: dict[str, Any] = {"way": WAYS[name], "messages": len(mine)}
    for key, what in (("latency", "task_to_browser_ms"), ("drawn", "drawn_ms")):
        values = [row[key] for row in mine if row[key] is not None]
        if not values:
            raise AssertionError(f"{WAYS[name]}: no {key} of {len(mine)} messages, is there traffic?")
        found[what] = {"p50": percentile(values, 0.5), "p95": percentile(values, 0.95)}
    found["drawn"] = len(values)
    return found


def run(ring: Ring, seconds: float) -> dict[str, Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        page = browser.new_page(viewport=SIZE)
        page.add_init_script(LISTEN)
        page.goto(ring.invite_link())
        page.fill("#id_username", "bench")
        for field in ("#id_password", "#id_repeated"):
            page.fill(field, "a long password")
        page.click("button.primary")
        page.goto(f"http://127.0.0.1:{ring.web_port}/targets/pocket/")
        page.locator("#chart-loss").scroll_into_view_if_needed()
        in_sight = page.evaluate(IN_SIGHT)
        page.wait_for_timeout(seconds * 1000)
        heard = page.evaluate("() => window.heard")
        browser.close()
    if not WAYS.keys() <= set(in_sight):
        raise AssertionError(f"only {', '.join(in_sight)} are in sight")
    return {"machine": machine(), "in_sight": in_sight, "ways": [of_way(heard, name) for name in WAYS]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0)
    given = parser.parse_args()
    with temporary_ring() as ring:
        print(json.dumps(run(ring, given.seconds), indent=2))


if __name__ == "__main__":
    main()
