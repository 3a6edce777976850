"""Does an EAGLE-3 checkpoint fit a target? Read from config.json and the safetensors headers, without torch.

The trainer checks the values too when it makes version 1 of it.
"""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import Any

from aurora_web.registry.compatibility import (
    TargetFacts,
    aux_layer_ids,
    find_directory,
    positive_integer,
    read_config,
    unreadable,
)
from aurora_web.registry.findings import Finding, Topic, warning
from aurora_web.registry.models import SpeculatorVersion
from aurora_web.registry.safetensors_header import read_tensors
from speculators.draft_config import WEIGHTS, unlike_ours, weights_problem

LAYERS = ("midlayer.", "layers.0.")  # names of its one layer: older checkpoints' and ours, SGLang's of today
OTHER = "Give a draft that was made for this model, or begin with random weights."
UNLIKE = "Give a draft that computes as Aurora's do, or begin with random weights."
SAVE = f"Save the weights as {WEIGHTS}, or begin with random ones."


def inspect_draft(path: str, target: TargetFacts, *, is_embedded: bool = False) -> tuple[str, list[Finding]]:
    """The resolved directory of an EAGLE-3 draft, and every reason why it does not fit ``target``."""
    folder, found = find_directory(path, f"config.json and {WEIGHTS} of an EAGLE-3 draft")
    if folder is None:
        return "", [_about_draft(finding) for finding in found]
    try:
        config, found = read_config(folder / "config.json")
        if config is None:
            return str(folder.resolve()), [_about_draft(finding) for finding in found]
        found = [Finding(Topic.DRAFT, f"Draft: {problem}.", UNLIKE) for problem in unlike_ours(config)]
        problems = _misfits(config, target, is_embedded)
        if missing := weights_problem(folder):
            found.append(Finding(Topic.DRAFT, f"Draft: {missing}.", SAVE))
        else:
            problems += _tensor_problems(folder, config, target)
        return str(folder.resolve()), found + [Finding(Topic.DRAFT, f"Draft: {each}", OTHER) for each in problems]
    except OSError as error:
        return "", [_about_draft(unreadable(folder, error))]


def _about_draft(finding: Finding) -> Finding:
    return Finding(Topic.DRAFT, f"Draft: {finding.says}", finding.fix, finding.state)


def inspect_copy(version: SpeculatorVersion, target: TargetFacts, *, is_embedded: bool = False) -> list[Finding]:
    """Every reason why another target's version cannot be the first of ``target``."""
    if version.pruned_at is not None:
        says = f"Draft: the files of {version} were deleted to save space."
        return [Finding(Topic.DRAFT, says, "Choose a version that is kept.")]
    _, found = inspect_draft(version.uri, target, is_embedded=is_embedded)
    source = version.target
    if (source.num_layers, source.architecture) != (target.num_layers, target.architecture):
        says = (
            f"Draft: {version} reads layers of {source.architecture} with {source.num_layers} layers, this one is "
            f"{target.architecture} with {target.num_layers}."
        )
        found.append(Finding(Topic.DRAFT, says, "Choose a version of a target of the same shape."))
    if not found and _differ(source.path, target.path):
        says = f"tokenizer.json of {source.slug} is not this one's: token ids may mean other text."
        found.append(warning(Topic.DRAFT, says, "Begin with random weights if the two models were trained apart."))
    return found


def _differ(one: str, other: str) -> bool:
    """Whether both directories have a tokenizer, and not the same one."""
    if not one or not other:
        return False
    ours, theirs = Path(one) / "tokenizer.json", Path(other) / "tokenizer.json"
    try:
        return ours.is_file() and theirs.is_file() and not filecmp.cmp(ours, theirs, shallow=False)
    except OSError:
        return False


def _misfits(config: dict[str, Any], target: TargetFacts, is_embedded: bool) -> list[str]:
    """What its config says of another target than this one."""
    problems = []
    pairs = (
        ("vocab_size", config.get("vocab_size"), target.vocab_size),
        ("hidden_size", config.get("hidden_size"), target.hidden_size),
        ("target_hidden_size", config.get("target_hidden_size", target.hidden_size), target.hidden_size),
    )
    for name, ours, theirs in pairs:
        if ours != theirs:
            problems.append(f"{name} is {ours!r}, the target's is {theirs}: it was made for another model.")
    eagle = config.get("eagle_config")
    layers = eagle.get("eagle_aux_hidden_state_layer_ids") if isinstance(eagle, dict) else None
    if layers is not None and not _are_layers(layers, target.num_layers):
        problems.append(f"it reads layers {layers!r}: expected three rising ids below {target.num_layers}.")
    elif layers is not None and is_embedded and layers != (captured := list(aux_layer_ids(target.num_layers))):
        problems.append(f"it reads layers {layers!r}, the embedded engine captures {captured!r}: SGLang can serve it.")
    return problems


def _are_layers(layers: Any, num_layers: int) -> bool:
    if not isinstance(layers, list) or len(layers) != 3 or not all(type(i) is int for i in layers):
        return False
    return layers == sorted(set(layers)) and layers[0] >= 0 and layers[-1] < num_layers


def _tensor_problems(folder: Path, config: dict[str, Any], target: TargetFacts) -> list[str]:
    found, problems = read_tensors(folder, [WEIGHTS])
    tensors = {name.removeprefix("model."): header for name, header in found.items()}
    hidden, draft_vocabulary = target.hidden_size, positive_integer(config, "draft_vocab_size") or target.vocab_size
    expected = {"fc.weight": [hidden, 3 * target.hidden_size], "lm_head.weight": [draft_vocabulary, hidden]}
    if draft_vocabulary != target.vocab_size:
        expected["d2t"] = [draft_vocabulary]
    for name, shape in expected.items():
        if name not in tensors:
            problems.append(f"the tensor {name} is missing.")
        elif tensors[name].get("shape") != shape:
            problems.append(f"{name} has shape {tensors[name].get('shape')}, expected {shape}.")
    if not any(name.startswith(LAYERS) for name in tensors):
        problems.append(f"its layer is missing: no tensor is named {' or '.join(f'{name}*' for name in LAYERS)}.")
    return problems
