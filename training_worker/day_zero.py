"""Version 1 where no optimiser is needed: an imported EAGLE-3 checkpoint, or random weights from a config alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from speculators.checkpoint import CONFIG, WEIGHTS, CheckpointError, tensor_problems
from speculators.draft_config import DEFAULT_NORM_EPS, DraftConfig, weights_problem
from speculators.eagle3 import Eagle3Draft
from training_worker import vocabulary
from training_worker.config import SliceJob

SHARED = "embed_tokens.weight"  # both engines take the target's
LAYER = "layers.0."  # what SGLang 0.5.2x calls the layer that older checkpoints, and ours, call midlayer


def is_readable(job: SliceJob) -> bool:
    """The target's directory is there."""
    return bool(job.target_path) and (Path(job.target_path) / "config.json").is_file()


def is_first(job: SliceJob) -> bool:
    """A day 0 that needs nothing of the target but its config."""
    is_day_zero = job.publish and not (job.parent_uri or job.fresh or job.replay or job.held_out)
    return is_day_zero and bool(job.import_path or (job.target_config and not is_readable(job)))


def first_draft(job: SliceJob) -> tuple[DraftConfig, dict[str, Tensor], dict[str, object]]:
    """Config, tensors and provenance of version 1. Raises CheckpointError, ValueError."""
    if job.import_path:
        config, state = import_draft(Path(job.import_path), job.target_config)
        source = f"{job.import_name}, {job.import_path}" if job.import_name else job.import_path
        return config, state, {"imported_from": source}
    config = DraftConfig.for_target(job.target_config)
    draft = Eagle3Draft(config, job.seed)
    draft.take_vocabulary(vocabulary.choose(None, job.target_config, config.draft_vocab_size))
    return config, draft.state_dict(), {"made_from": "the target's config.json"}


def import_draft(folder: Path, target: dict[str, Any]) -> tuple[DraftConfig, dict[str, Tensor]]:
    """Read somebody else's EAGLE-3 checkpoint as one of ours: our names, float32, no embedding, a complete config.

    Layer ids that are not given are SGLang's defaults; positions are the target's, whatever the file says, because a
    smaller number costs acceptance in silence. Raises CheckpointError naming what does not fit, or asks SGLang for
    another draft than ours.
    """
    try:
        given = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config = DraftConfig.from_hf(_complete(given, target))
        if problem := weights_problem(folder):
            raise CheckpointError(problem)
        tensors = _read(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    _add_vocabulary(config, tensors)
    problems = tensor_problems(config, tensors)
    if problems:
        raise CheckpointError(f"{folder / WEIGHTS}: " + "; ".join(problems))
    return config, tensors


def _add_vocabulary(config: DraftConfig, tensors: dict[str, Tensor]) -> None:
    """d2t and t2d as ours; t2d follows from d2t, which means what a full vocabulary needs not say."""
    offsets = tensors.setdefault("d2t", torch.zeros(config.draft_vocab_size, dtype=torch.int64)).long()
    ids = torch.arange(len(offsets)) + offsets
    if len(ids) and not (int(ids.min()) >= 0 and int(ids.max()) < config.vocab_size):
        raise CheckpointError(f"d2t gives target ids up to {int(ids.max())}, vocab_size is {config.vocab_size}")
    tensors["d2t"] = offsets
    tensors["t2d"] = torch.zeros(config.vocab_size, dtype=torch.bool)
    tensors["t2d"][ids] = True


def _complete(given: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
    """What is left out, or null, means to us what it means to SGLang: the draft was trained so, whatever the target.

    Without a ``draft_vocab_size`` SGLang loads no draft; such a one has the target's vocabulary here.
    """
    default = DraftConfig.for_target(target)
    eagle = given.get("eagle_config") or {}
    layers = eagle.get("eagle_aux_hidden_state_layer_ids") or list(default.aux_layer_ids)
    return {
        "draft_vocab_size": given.get("vocab_size"),
        "rms_norm_eps": DEFAULT_NORM_EPS,
        **{key: value for key, value in given.items() if value is not None or key == "draft_vocab_size"},
        "max_position_embeddings": default.max_position_embeddings,
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": layers},
    }


def _read(path: Path) -> dict[str, Tensor]:
    """Raises CheckpointError where two tensors mean the same."""
    found: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as file:
        for given in file.keys():  # noqa: SIM118
            name = _our_name(given)
            if name in found:
                raise CheckpointError(f"{path}: {given} is there by another name too")
            if name != SHARED:
                found[name] = file.get_tensor(given)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}


def _our_name(name: str) -> str:
    """Of a tensor by the names that SGLang loads, those of its own modules included."""
    name = name.removeprefix("model.")
    return f"midlayer.{name.removeprefix(LAYER)}" if name.startswith(LAYER) else name
