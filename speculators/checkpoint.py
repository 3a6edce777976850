"""Speculator checkpoints: ``config.json`` and ``model.safetensors`` in the EAGLE-3 layout.

Serialisation is deterministic, so the digest of a state dict in memory equals the sha256 of the file it was saved to:
that is how a replica proves what it runs.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from speculators.draft_config import VOCABULARY_TENSORS, DraftConfig

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and what is wrong."""

    retryable = False


class OtherLayersError(CheckpointError):
    """A draft that reads other layers of the target than an engine captures: what it captures is for another one."""


def state_digest(state: dict[str, Tensor]) -> str:
    """sha256 (hex) of the bytes that ``save`` would write for these tensors."""
    return hashlib.sha256(_payload(state)).hexdigest()


def save(directory: Path, config: DraftConfig, state: dict[str, Tensor]) -> str:
    """Write a checkpoint atomically and durably; returns the sha256 of the weights file.

    Raises FileExistsError when the directory is there already: versions are immutable.
    """
    if directory.exists():
        raise FileExistsError(f"{directory}: versions are immutable, choose a new directory")
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
    temporary.mkdir(parents=True, exist_ok=True)
    payload = _payload(state)
    write_durably(temporary / WEIGHTS, payload)
    write_durably(temporary / CONFIG, json.dumps(config.to_hf(), indent=1).encode())
    temporary.rename(directory)
    sync_directory(directory.parent)
    return hashlib.sha256(payload).hexdigest()


def load(directory: Path, expected_sha256: str | None = None) -> tuple[DraftConfig, dict[str, Tensor]]:
    """Read a checkpoint, checking its digest when one is expected, its tensor names, shapes and finiteness.

    Raises CheckpointError.
    """
    try:
        weights = (directory / WEIGHTS).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{directory}: {error}") from error
    config = read_config(directory)
    digest = hashlib.sha256(weights).hexdigest()
    if expected_sha256 and digest != expected_sha256:
        raise CheckpointError(f"{directory / WEIGHTS}: sha256 is {digest}, expected {expected_sha256}")
    try:
        state = _read_tensors(directory / WEIGHTS)
    except SafetensorError as error:
        raise CheckpointError(f"{directory / WEIGHTS}: {error}") from error
    problems = tensor_problems(config, state)
    if problems:
        raise CheckpointError(f"{directory / WEIGHTS}: " + "; ".join(problems))
    return config, state


def tensor_problems(config: DraftConfig, state: dict[str, Tensor]) -> list[str]:
    """What an engine would ignore or misread in silence: names, shapes, dtypes, values that are not finite."""
    expected = config.tensor_shapes()
    problems = [f"unknown tensor {name}" for name in sorted(state.keys() - expected.keys())]
    problems += [f"missing tensor {name}" for name in sorted(expected.keys() - state.keys())]
    for name in sorted(state.keys() & expected.keys()):
        tensor, dtype = state[name], VOCABULARY_TENSORS.get(name, "torch.float32")
        if tensor.shape != expected[name]:
            problems.append(f"{name} has shape {list(tensor.shape)}, expected {list(expected[name])}")
        elif tensor.is_floating_point() == (name in VOCABULARY_TENSORS):
            problems.append(f"{name} has dtype {tensor.dtype}, expected {dtype}")
        elif tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            problems.append(f"{name} has values that are not finite")
    return problems or _vocabulary_problems(config, state)


def lint(directory: Path, target_config: dict[str, Any]) -> list[str]:
    """Silent traps of a draft for this target; an empty list means that it fits. Raises CheckpointError."""
    config, _ = load(directory)
    return config_problems(config, target_config)


def read_config(directory: Path) -> DraftConfig:
    """The ``config.json`` of a checkpoint. Raises CheckpointError."""
    try:
        return DraftConfig.from_hf(json.loads((directory / CONFIG).read_text()))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory}: {error}") from error


def config_problems(config: DraftConfig, target_config: dict[str, Any]) -> list[str]:
    """Silent traps of a draft's shape for this target; an empty list means that it fits."""
    problems = []
    for name, ours, theirs in (
        ("vocab_size", config.vocab_size, target_config["vocab_size"]),
        ("target_hidden_size", config.target_hidden_size, target_config["hidden_size"]),
        ("hidden_size", config.hidden_size, target_config["hidden_size"]),
        ("max_position_embeddings", config.max_position_embeddings, target_config["max_position_embeddings"]),
    ):
        if ours != theirs:
            problems.append(f"{name} is {ours}, the target's is {theirs}")
    num_layers = target_config["num_hidden_layers"]
    if list(config.aux_layer_ids) != sorted(set(config.aux_layer_ids)) or config.aux_layer_ids[-1] >= num_layers:
        problems.append(f"aux layer ids {config.aux_layer_ids} must rise and stay below {num_layers}")
    return problems


def write_durably(path: Path, payload: bytes) -> None:
    """Write and fsync a file."""
    with path.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Make renames inside a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _payload(state: dict[str, Tensor]) -> bytes:
    return serialise({name: state[name].detach().cpu().contiguous() for name in sorted(state)})


def _read_tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _vocabulary_problems(config: DraftConfig, state: dict[str, Tensor]) -> list[str]:
    target_ids = torch.arange(config.draft_vocab_size) + state["d2t"]
    if target_ids.numel() and (bool((target_ids.diff() <= 0).any()) or int(target_ids[-1]) >= config.vocab_size):
        return ["d2t does not give rising target ids below vocab_size"]
    if int(state["t2d"].sum()) != config.draft_vocab_size or not bool(state["t2d"][target_ids].all()):
        return ["t2d and d2t name different target ids"]
    return []
