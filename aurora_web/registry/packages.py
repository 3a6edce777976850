"""Named packages: models that ``python -m serving.model_sources`` has made a directory of on this machine.

A registration may name one instead of giving a directory. The console makes none: it only finds them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

MARKER = "model_source.json"  # serving/model_sources/prepared.py writes it
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Package:
    """A model that is ready to be registered."""

    name: str
    title: str
    license: str
    path: str


def is_name(path: str) -> bool:
    """Whether somebody means a package, not a directory."""
    return NAME.fullmatch(path) is not None


def prepared() -> list[Package]:
    """Those that are there, by name."""
    found = (_read(path.parent) for path in sorted((settings.STATE_DIR / "models").glob(f"*/{MARKER}")))
    return [package for package in found if package is not None]


def find(name: str) -> Package | None:
    """The package of that name."""
    return next((package for package in prepared() if package.name == name), None)


def _read(folder: Path) -> Package | None:
    try:
        facts = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return Package(str(facts["name"]), str(facts["title"]), str(facts["license"]), str(folder))
    except (OSError, KeyError, TypeError, ValueError):
        return None  # half written, or not ours
