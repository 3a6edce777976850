"""Where a version comes from, in words; and what differs between several."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from aurora_web import numbers
from aurora_web.registry.models import SpeculatorVersion

LABELS = {
    "imported_from": "Imported from",
    "code_version": "Aurora",
    "python": "Python",
    "torch": "PyTorch",
    "machine": "Machine",
    "device": "Trained on",
    "argv": "Command line",
    "seed": "Seed",
    "run_id": "Training run",
    "step": "Optimiser steps",
    "num_tokens": "Tokens trained on",
    "coverage": "Share of the new traces' tokens that it can propose",
    "num_fresh_traces": "New traces given to its last slice",
    "num_replay_traces": "Older traces that its last slice could draw",
    "first_trace": "First of the new traces given",
    "last_trace": "Last of the new traces given",
}
NONE = "none"


def words(value: Any) -> str:
    """A value of JSON as a person would write it."""
    if value is None or value == "" or value == []:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return numbers.grouped(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(words(item) for item in value)
    return str(value)


def provenance(version: SpeculatorVersion) -> list[tuple[str, str]]:
    """(label, words), the known ones in a fixed order, then the others by name."""
    known = version.provenance
    ordered = [key for key in LABELS if key in known] + sorted(known.keys() - LABELS.keys())
    return [(LABELS.get(key, key.replace("_", " ")), _said(key, known[key])) for key in ordered]


def _said(key: str, value: Any) -> str:
    if key == "argv" and isinstance(value, list):
        return shlex.join(map(str, value)) or NONE
    if key in {"seed", "run_id"}:
        return str(value)
    if key == "coverage" and isinstance(value, float):
        return numbers.percent(value)
    return words(value)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings under dotted names, in words."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = words(value)
    return found


def differences(columns: Sequence[dict[str, str]]) -> list[tuple[str, list[str]]]:
    """(name, the value in each column) of what is not the same in all; a missing one is "not set"."""
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, [column.get(name, "not set") for column in columns]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]
