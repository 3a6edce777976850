"""The files of a version on disk: names, sizes, checksums, and streaming one of them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from aurora_web.registry.models import SpeculatorVersion

WEIGHTS = "model.safetensors"  # the file whose checksum is the version's
MAX_HASHED_BYTES = 4 * 1024 * 1024  # a larger file is not read for a page
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class VersionFile:
    name: str
    path: Path
    size_bytes: int
    sha256: str  # "" = too large to compute for a page


def list_files(version: SpeculatorVersion) -> list[VersionFile]:
    """Regular files of the version's directory; none when it is pruned, gone, or outside of VERSIONS_DIR."""
    folder = Path(version.uri).resolve()
    if version.pruned_at is not None or not folder.is_relative_to(Path(settings.VERSIONS_DIR).resolve()):
        return []
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    except OSError:
        return []
    return [file for path in paths if (file := _file(version, path))]


def _file(version: SpeculatorVersion, path: Path) -> VersionFile | None:
    """None for a file that cannot be read: what is being pruned has gone since it was listed."""
    try:
        size = path.stat().st_size
        sha256 = version.sha256 if path.name == WEIGHTS else ""
        if path.name != WEIGHTS and size <= MAX_HASHED_BYTES:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
    return VersionFile(path.name, path, size, sha256)


def find_file(version: SpeculatorVersion, name: str) -> VersionFile | None:
    """One of ``list_files`` by its name; a path never is one."""
    return next((file for file in list_files(version) if file.name == name), None)


async def stream(path: Path) -> AsyncIterator[bytes]:
    """The file in pieces, read in a thread: neither memory nor the event loop carries all of it."""
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield piece
    finally:
        await asyncio.to_thread(file.close)
