"""Can Aurora learn a draft for this target where SGLang serves it? Every finding is a sentence with its fix.

The console needs the config alone; the weights are SGLang's business, except that the trainer reads the embedding and
the head from the checkpoint directory.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from aurora_web.registry.compatibility import (
    EMBEDDING,
    TargetFacts,
    find_directory,
    positive_integer,
    read_config,
    read_weights,
    shape_problems,
    unreadable,
)
from aurora_web.registry.findings import Finding, Topic, ok, warning
from aurora_web.registry.tokenizer_check import end_problems, tokenizer_problems
from speculators.target_config import DTYPES
from speculators.tokenizer_files import TOKENIZER

SGLANG_VERSION = "0.5.21"  # the plugin's hooks are written for it
MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
REPORTED_VERSION = re.compile(r"sglang (\S+?)(?:,|$)")
HEAD = "lm_head.weight"


def inspect_served(
    path: str, model_id: str, config: dict[str, Any] | None, models_dir: Path | None
) -> tuple[TargetFacts | None, list[Finding]]:
    """Facts (None when there is no config to judge) and problems of a target that SGLang serves.

    Exactly one of ``path`` and ``model_id``; ``config`` stands in for a checkpoint that is not on the console's disk.
    """
    if bool(path) == bool(model_id):
        says = "Give either a checkpoint directory or a model id: SGLang is started with one of them."
        return None, [Finding(Topic.SOURCE, says)]
    if path:
        folder, found = find_directory(path, "config.json and *.safetensors")
        return _inspect_folder(folder, folder.name, "") if folder else (None, found)
    if not MODEL_ID.fullmatch(model_id):
        return None, [Finding(Topic.SOURCE, f"{model_id!r} is no model id.", "Give a name like Qwen/Qwen3-8B.")]
    name = model_id.split("/")[-1]
    if models_dir is not None and os.path.isdir(models_dir / model_id):
        return _inspect_folder(models_dir / model_id, name, model_id)
    if not config:
        return None, [_no_config(model_id, models_dir)]
    facts = TargetFacts.of(config, name, model_id=model_id)
    return facts, [*_config_problems(config), _unreadable_weights(f"{models_dir or '$AURORA_MODELS_DIR'}/{model_id}")]


def inspect_reported(path: str, config: dict[str, Any]) -> tuple[TargetFacts, list[Finding]]:
    """Facts of a directory that only a server has seen, which sent the config.json."""
    facts = replace(TargetFacts.of(config, Path(path).name), path=path)
    sent = ok(Topic.SOURCE, f"The server sent the config.json of {path}, which the console does not see.")
    return facts, [sent, *_config_problems(config), _unreadable_weights(path)]


def _no_config(model_id: str, models_dir: Path | None) -> Finding:
    where = (
        f"{models_dir / model_id} does not exist"
        if models_dir
        else "AURORA_MODELS_DIR is not set, so the console looks nowhere for it"
    )
    says = f"The console has no checkpoint of {model_id} ({where}) and downloads nothing."
    return Finding(Topic.SOURCE, says, "Now paste the model's config.json, or give a checkpoint directory.")


def _unreadable_weights(directory: str) -> Finding:
    says = (
        f"The console sees no weights at {directory}: version 1 is served, and nothing is learnt while the trainer "
        "cannot read the embedding and the head there."
    )
    return warning(Topic.WEIGHTS, says, "Make the checkpoint readable for the trainer below AURORA_MODELS_DIR.")


def _inspect_folder(folder: Path, name: str, model_id: str) -> tuple[TargetFacts | None, list[Finding]]:
    try:
        config, found = read_config(folder / "config.json")
        if config is None:
            return None, found
        found += _config_problems(config) + _text_problems(folder, config) + _weight_problems(folder, config)
        return TargetFacts.of(config, name, folder=folder, model_id=model_id), found
    except OSError as error:
        return None, [unreadable(folder, error)]


def _text_problems(folder: Path, config: dict[str, Any]) -> list[Finding]:
    """The trainer counts tokens with tokenizer.json, where it is there, and reads what ends a text."""
    found = tokenizer_problems(folder) if (folder / TOKENIZER).is_file() else []
    return found + end_problems(folder, config)


def _config_problems(config: dict[str, Any]) -> list[Finding]:
    found = shape_problems(config, "Aurora's draft fits")
    if config.get("quantization_config"):
        says = "The checkpoint is quantized: hidden states that have expired may not be recomputable."
        found.append(
            warning(Topic.WEIGHTS, says, "Keep hidden states for longer (AURORA_SEGMENT_HOURS) if that hurts.")
        )
    return found


def _weight_problems(folder: Path, config: dict[str, Any]) -> list[Finding]:
    """The trainer reads embedding and head, whatever the other layers are quantized to."""
    if not any(folder.glob("*.safetensors")):
        says = "No *.safetensors file: the trainer reads the embedding and the head from the weights."
        return [Finding(Topic.WEIGHTS, says, "Give the weights in safetensors format.")]
    tensors, found = read_weights(folder)
    if found:
        return found
    expected = [positive_integer(config, "vocab_size"), positive_integer(config, "hidden_size")]
    fix = "Give weights and config.json of one and the same model."
    for name in [EMBEDDING] if config.get("tie_word_embeddings") else [EMBEDDING, HEAD]:
        entry = tensors.get(name)
        if entry is None:
            says = f"The tensor {name}, which the trainer reads, is missing from the weights."
            found.append(Finding(Topic.WEIGHTS, says, fix))
        elif entry.get("shape") != expected or entry.get("dtype") not in DTYPES:
            says = f"{name} is {entry.get('dtype')} {entry.get('shape')}: the trainer reads {', '.join(DTYPES)}"
            found.append(Finding(Topic.WEIGHTS, f"{says} of shape {expected}.", fix))
    return found


def engine_finding(engine: str) -> Finding:
    """The version that a server has reported ("" = none has) against the one that the plugin is written for."""
    install = f"Install sglang=={SGLANG_VERSION} in the servers' environment."
    if not engine:
        says = f"SGLang has to be {SGLANG_VERSION}; which one it is, the first server's report says."
        return warning(Topic.ENGINE, says, install)
    found = REPORTED_VERSION.search(engine)
    if found and found[1] == SGLANG_VERSION:
        return ok(Topic.ENGINE, f"The server reports {engine}: the plugin is written for SGLang {SGLANG_VERSION}.")
    says = f"The server reports {engine}, the plugin is written for SGLang {SGLANG_VERSION}: capture may be broken."
    return warning(Topic.ENGINE, says, install)
