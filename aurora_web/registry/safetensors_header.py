"""Names, types and shapes of the tensors in safetensors files, by the standard library.

The header is JSON behind an 8-byte little-endian length: no torch is needed to know what a checkpoint holds.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 100_000_000


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """``{tensor name: {"dtype", "shape", "data_offsets"}}`` of one file. Raises ValueError, OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        raw = file.read(8)
        if len(raw) < 8:
            raise ValueError("the file is shorter than a safetensors header")
        (length,) = struct.unpack("<Q", raw)
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"its header claims {length} bytes, the file has {size}")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    header.pop("__metadata__", None)
    try:
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError("a tensor in its header has no data_offsets") from error
    if 8 + length + end != size:
        raise ValueError(f"it has {size} bytes where its header asks for {8 + length + end}: a download cut short?")
    return header


def read_tensors(folder: Path, files: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The tensors of these safetensors files of a directory, and a sentence for each that cannot be read."""
    tensors: dict[str, dict[str, Any]] = {}
    problems = []
    for name in files:
        try:
            tensors |= read_header(folder / name)
        except ValueError as error:
            problems.append(f"{name} cannot be read: {error}.")
    return tensors, problems
