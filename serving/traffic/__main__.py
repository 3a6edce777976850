"""Traffic: a client of the engine's public API like any other: ``python -m serving.traffic``.

What to send (how many at once, which domains, when the mix shifts) is read from the console's ``GET /traffic``, so a
person can change it there; with ``--engine-url`` the options are the plan and no console is needed. Survives restarts
of the engine and of the console.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Sequence

import httpx

from serving.traffic.client import AskForPlans, ConsolePlans, Traffic
from serving.traffic.config import ConfigError, load
from serving.traffic.plan import Plan


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2 for settings that cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        config = load(argv)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seed = time.time_ns() // 1000
    if config.plan is None:
        console = ConsolePlans(config.console_url, config.token)
        traffic = Traffic(console, seed, config.sent_file, console.tell)
    else:
        traffic = Traffic(_fixed(config.plan), seed, config.sent_file)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(traffic.run())
    return 0


def _fixed(plan: Plan) -> AskForPlans:
    fixed = (plan,)

    async def ask(_: httpx.AsyncClient) -> Sequence[Plan]:
        return fixed

    return ask


if __name__ == "__main__":
    sys.exit(main())
