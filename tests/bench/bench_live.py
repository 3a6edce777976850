"""From a task to the browser: `python -m tests.bench.bench_live`.

A real Aurora under its demo traffic, headless Chromium on the target's page. Latency: from the moment at which the
trainer's process made a progress report (its clock; the same machine) to the arrival of the message in the page, with
the database writes and the commit in between. Drawn: to the end of the drawing of the loss chart that holds the report.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from playwright.sync_api import sync_playwright

from tests.bench.machine import machine
from tests.bench.ring import Ring, temporary_ring

CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
LISTEN = """
window.heard = [];
const Plain = window.WebSocket;
window.WebSocket = class extends Plain {
  constructor(...args) {
    super(...args);
    this.addEventListener("message", (event) => {
      const at = Date.now() / 1000, message = JSON.parse(event.data);
      const progress = (message.deltas ?? []).find((delta) => delta.kind === "progress");
      if (progress?.data.phase !== "train") return;
      const row = { latency: at - progress.data.reported_at, drawn: null };
      window.heard.push(row);
      const chart = document.getElementById("chart-loss");
      const last = () => Date.parse(`${chart.data?.[0]?.x.at(-1)}Z`) / 1000;  // the wall clock of UTC, to a millisecond
      const look = () => last() >= progress.data.reported_at - 2e-3
        ? (row.drawn = Number(chart.dataset.drawn) / 1000 - progress.data.reported_at) : setTimeout(look, 5);
      look();
    });
  }
};
"""


def percentile(values: list[float], share: float) -> float:
    """Milliseconds below which this share of the values lies."""
    ordered = sorted(values)
    return round(1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


def run(ring: Ring, seconds: float) -> dict[str, Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        page = browser.new_page()
        page.add_init_script(LISTEN)
        page.goto(ring.invite_link())
        page.fill("#id_username", "bench")
        for field in ("#id_password", "#id_repeated"):
            page.fill(field, "a long password")
        page.click("button.primary")
        page.goto(f"http://127.0.0.1:{ring.web_port}/targets/pocket/")
        page.locator("#chart-loss").scroll_into_view_if_needed()
        page.wait_for_timeout(seconds * 1000)
        heard = page.evaluate("() => window.heard")
        browser.close()
    latencies = [row["latency"] for row in heard]
    drawn = [row["drawn"] for row in heard if row["drawn"]]
    return {
        "machine": machine(),
        "messages": len(heard),
        "task_to_browser_ms": {"p50": percentile(latencies, 0.5), "p95": percentile(latencies, 0.95)},
        "drawn": len(drawn),
        "drawn_ms": {"p50": percentile(drawn, 0.5), "p95": percentile(drawn, 0.95)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0)
    given = parser.parse_args()
    with temporary_ring() as ring:
        print(json.dumps(run(ring, given.seconds), indent=2))


if __name__ == "__main__":
    main()
