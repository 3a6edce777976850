"""Read the tensors of a Hugging Face directory, one file or sharded, as float32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from speculators.target_config import DTYPES, INDEX, SINGLE


class Weights:
    """Tensors by name. Raises FileNotFoundError without weights, ValueError for a missing or unusable tensor."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = _files(folder)
        self._stack = ExitStack()
        self._open: dict[str, safe_open] = {}

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def tensor(self, name: str, *shape: int) -> Tensor:
        """One tensor in float32, checked against the shape that the config implies."""
        if name not in self._files:
            raise ValueError(f"{self._folder}: tensor {name} is missing")
        found = self._read(name, self._files[name])
        if tuple(found.shape) != shape:
            raise ValueError(f"{self._folder}: {name} has shape {list(found.shape)}, expected {list(shape)}")
        if str(found.dtype) not in DTYPES.values():
            raise ValueError(f"{self._folder}: {name} is {found.dtype}; this engine reads {', '.join(DTYPES)}")
        return found.float()

    def optional(self, name: str, *shape: int) -> Tensor | None:
        """The tensor, or None where the checkpoint has none (biases)."""
        return self.tensor(name, *shape) if name in self else None

    def _read(self, name: str, file: str) -> Tensor:
        try:
            if file not in self._open:
                self._open[file] = self._stack.enter_context(safe_open(self._folder / file, framework="pt"))
            found: Tensor = self._open[file].get_tensor(name)  # type: ignore[no-untyped-call]
        except SafetensorError as error:  # cut short, or it does not hold what the index says
            raise ValueError(f"{self._folder}: {name} cannot be read from {file}: {error}") from error
        return found


def _files(folder: Path) -> Mapping[str, str]:
    """Tensor name -> file name."""
    index = folder / INDEX
    if index.exists():
        try:
            return dict(json.loads(index.read_bytes())["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{index}: expected an object with weight_map") from error
    if not (folder / SINGLE).exists():
        raise FileNotFoundError(f"{folder}: neither {SINGLE} nor {INDEX} is there")
    try:
        with safe_open(folder / SINGLE, framework="pt") as file:
            return dict.fromkeys(file.keys(), SINGLE)
    except SafetensorError as error:
        raise ValueError(f"{folder / SINGLE} cannot be read: {error}") from error
