"""Which demo target a state directory runs: ``AURORA_DEMO``, else what the last start chose, else a real LLM.

The pocket target lies in the repository; it stands in where the LLM's package cannot be fetched, until it can.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

DEFAULT, FALLBACK, NONE = "smollm2", "pocket", "none"
CHOICES = (DEFAULT, FALLBACK, NONE)
FILE = "demo.json"


@dataclass(frozen=True, slots=True)
class Demo:
    """``name``: what is to run, a slug and a model source; ``before``: what the last start ran, "" at the first."""

    name: str
    before: str = ""
    is_fallback: bool = False

    @classmethod
    def choose(cls, asked: str, state_dir: Path) -> Demo:
        """``asked``: one of CHOICES, or "" for what it was."""
        last = _read(state_dir / FILE)
        kept = last.name if last and not last.is_fallback else DEFAULT
        return cls(asked or kept, last.name if last else "")

    def fallen_back(self) -> Demo:
        """The same start with the target that needs no package."""
        return Demo(FALLBACK, self.before, is_fallback=True)

    def remember(self, state_dir: Path) -> None:
        """For the next start."""
        unfinished = state_dir / f"{FILE}.new"
        unfinished.write_text(json.dumps({"name": self.name, "is_fallback": self.is_fallback}), encoding="utf-8")
        unfinished.replace(state_dir / FILE)


def _read(path: Path) -> Demo | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Demo(str(found["name"]), is_fallback=bool(found["is_fallback"]))
    except (OSError, KeyError, TypeError, ValueError):
        return None  # never written, or by hand
