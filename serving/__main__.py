"""``python -m serving --target DIR``: serve a target with a speculator that keeps learning."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import torch

from serving import config as settings
from serving.engine.engine import Engine
from serving.http import server
from serving.trace.spool import SpoolInUseError

SWITCH_INTERVAL_SECONDS = 0.0005  # Python's 5 ms would make the engine's thread wait whole steps for the HTTP thread


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2 for settings or a target that cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    try:
        config = settings.load(sys.argv[1:] if argv is None else argv)
        torch.set_num_threads(config.num_threads)
        listener = server.bind(config)
        server.run(config, Engine(config.target_dir, config.engine), listener)
    except (settings.ConfigError, SpoolInUseError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
