"""The named packages that become a target's directory; any other Hugging Face directory is registered as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving.model_sources import smollm2
from serving.model_sources.prepared import Origin, prepare
from serving.pocket import expand as pocket

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A named package: what it is, and how it fills an empty directory."""

    origin: Origin
    write: Callable[[Path, Say], None]

    def prepare(self, folder: Path, say: Say) -> Path:
        """The directory, written now where it is not there yet. Raises FetchError, OSError, ValueError."""
        return prepare(folder, self.origin, lambda unfinished: self.write(unfinished, say))


def _write_pocket(folder: Path, say: Say) -> None:
    say("Pocket target: expanding the packaged weights")
    pocket.write(folder)


SOURCES = {
    source.origin.name: source
    for source in (ModelSource(smollm2.ORIGIN, smollm2.write), ModelSource(pocket.origin(), _write_pocket))
}
