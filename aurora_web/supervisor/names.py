"""What an engine of this machine is called: what it keeps on disk hangs on its name, so its port is no part of that."""

from __future__ import annotations

from pathlib import Path

MOST_CHARS = 64  # of a replica's name, as of a slug
PLACES = ("spool/{}", "replicas/{}.desired.json", "replicas/{}.pins.json")  # in the state directory


def replica_name(slug: str) -> str:
    """The name of a target's engine: the console and its pages have it too."""
    name = f"{slug}-embedded"
    return name if len(name) <= MOST_CHARS else slug


def former_name(slug: str, port: int) -> str:
    """What it was called until 29 November 2026."""
    return f"{slug[:58]}-{port}"


def take_over(state_dir: Path, former: str, name: str) -> None:
    """Give ``name`` what ``former`` kept: unsent announcements, the last good version, pins. What is there stays."""
    for place in PLACES:
        old, new = state_dir / place.format(former), state_dir / place.format(name)
        if old.exists() and not new.exists():
            old.rename(new)
