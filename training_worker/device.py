"""The device that drafts are trained, evaluated and recomputed for; everything else takes it from the target."""

from __future__ import annotations

import torch

from training_worker.config import DEVICE, ConfigError

CPU = torch.device("cpu")


def find_device(wanted: str) -> torch.device:
    """The device of a setting (config.wanted_device). Raises ConfigError where the machine lacks it."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return CPU
    if not torch.cuda.is_available():
        why = "has no CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda} finds no GPU or driver"
        raise ConfigError(f"{DEVICE}={wanted!r}: torch {torch.__version__} {why}; auto or cpu trains on the processor")
    index = torch.device("cuda" if wanted == "auto" else wanted).index or 0
    if index >= torch.cuda.device_count():
        there = ", ".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
        raise ConfigError(f"{DEVICE}={wanted!r}: this process sees {there} only; choose one of them, or auto")
    return torch.device("cuda", index)


def name_of(device: torch.device) -> str:
    """For people: ``cpu``, or a GPU's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
