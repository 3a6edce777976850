"""A model directory that a named package was turned into: written once, whole or not at all.

A marker file in it says which package it came from; the console finds the named packages of a machine by it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

MARKER = "model_source.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """Which package a directory holds; ``sha256`` changes whenever its content would."""

    name: str
    title: str
    license: str
    sha256: str


def origin_of(folder: Path) -> Origin | None:
    """What ``folder`` was made from, or None where no package was."""
    try:
        return Origin(**json.loads((folder / MARKER).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        return None


def prepare(folder: Path, origin: Origin, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a new directory and put it at ``folder``; does nothing where that is done already.

    The directory appears by a rename, so a reader never sees half of one. Raises ValueError where ``folder`` holds
    something else, and whatever ``write`` raises.
    """
    if origin_of(folder) == origin:
        return folder
    if folder.exists() and any(folder.iterdir()) and origin_of(folder) is None:
        raise ValueError(f"{folder} is not empty and no named package was written there; name another directory")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        unfinished.chmod(0o755)
        write(unfinished)
        (unfinished / MARKER).write_text(json.dumps(asdict(origin), indent=2) + "\n", encoding="utf-8")
        _put_in_place(unfinished, folder, origin)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _put_in_place(unfinished: Path, folder: Path, origin: Origin) -> None:
    """Rename into place; where another process won with the same package, its directory stays."""
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
        os.replace(folder, old)
        shutil.rmtree(old)
    try:
        os.replace(unfinished, folder)
    except OSError:
        if origin_of(folder) != origin:
            raise
