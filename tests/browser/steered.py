"""A target whose versions a person approves, with two servers that the tests play by the public protocol."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from tests.bench.ring import REPO, Ring, wait_for
from tests.browser.reporting_server import ReportingServer

SLUG = "steered"


class Steered:
    """v1 is live on both servers; ``waiting()`` gives a later version that waits for a person."""

    def __init__(self, ring: Ring, base: str) -> None:
        self.ring = ring
        ring.post(
            "/targets",
            {
                "source": "sglang",
                "path": str(ring.state_dir / "models" / "pocket"),
                "slug": SLUG,
                "name": "Steered model",
                "policy": {"approval": "manual"},
            },
        )
        token = ring.post(f"/targets/{SLUG}/replica-token")["token"]
        self.servers = [ReportingServer(base, token, SLUG, f"{SLUG}-{port}") for port in (30000, 30001)]
        wait_for("v1 on both servers", lambda: self.running() == {1}, 120)
        for server in self.servers:
            server.send_counts(0.6)

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def running(self) -> set[int]:
        """Numbers that are desired of the servers, and with that what they run."""
        return {server.desired.version for server in self.servers}

    def versions(self) -> dict[int, dict[str, Any]]:
        return {v["number"]: v for v in self.ring.get(f"/targets/{SLUG}/versions")["items"]}

    def numbers(self, status: str) -> list[int]:
        return [number for number, version in sorted(self.versions().items()) if version["status"] == status]

    def waiting(self) -> int:
        """The number of a version that waits and was judged against what is live; made where there is none."""
        fresh = [
            line["number"] for line in self.ring.get("/approvals", target=SLUG, state="waiting") if not line["stale"]
        ]
        return max(fresh) if fresh else seed_version(self.ring, SLUG)

    def replaced(self) -> int:
        """The number of the live version, once there is one to go back to; approved where there is none yet."""
        if not self.numbers("retired"):
            number = self.waiting()
            self.ring.post(f"/versions/{self.versions()[number]['id']}/approve")
            wait_for("both servers", lambda: self.running() == {number}, 30)
        [live] = self.numbers("live")
        return live


def seed_version(ring: Ring, slug: str) -> int:
    """One more version that passes the gate, without training for it."""
    command = [sys.executable, "-m", "tests.browser.seed", slug]
    environment = {**ring.environment, "DJANGO_SETTINGS_MODULE": "aurora_web.settings"}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(re.findall(r"\d+", done.stdout)[-1])
