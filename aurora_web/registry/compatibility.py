"""Can the embedded engine serve this checkpoint directory? Every finding is explained; no torch is needed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aurora_web.registry.findings import Finding, Topic, ok
from aurora_web.registry.safetensors_header import read_tensors
from aurora_web.registry.tokenizer_check import chat_problems, end_problems, tokenizer_problems
from speculators.draft_config import (
    DRAFT_VOCABULARY,
    LARGEST_FULL_VOCABULARY,
    MIN_TARGET_LAYERS,
    rope_of,
    rope_theta_of,
)
from speculators.target_config import (
    ACTIVATION,
    ARCHITECTURES,
    DTYPES,
    INDEX,
    ROPE_TYPES,
    SINGLE,
    ModelConfig,
    read_object,
)

EMBEDDING = "model.embed_tokens.weight"
SIZES = {
    "num_hidden_layers": Topic.LAYERS,
    "hidden_size": Topic.SHAPE,
    "vocab_size": Topic.VOCABULARY,
    "num_attention_heads": Topic.SHAPE,
    "intermediate_size": Topic.SHAPE,
    "max_position_embeddings": Topic.SHAPE,
}


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What a checkpoint directory says about itself."""

    path: str  # absolute; "" = not on the console's disk
    config: dict[str, Any]
    architecture: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    default_slug: str
    model_id: str = ""
    weight_bytes: int = 0  # of its safetensors files; 0 = they are not on the console's disk

    @classmethod
    def of(cls, config: dict[str, Any], name: str, *, folder: Path | None = None, model_id: str = "") -> TargetFacts:
        """The facts of a config.json; ``name`` gives the slug that is proposed. Raises OSError."""
        return cls(
            path=str(folder.resolve()) if folder else "",
            config=config,
            architecture=architecture_of(config),
            num_layers=positive_integer(config, "num_hidden_layers"),
            hidden_size=positive_integer(config, "hidden_size"),
            vocab_size=positive_integer(config, "vocab_size"),
            default_slug=slug_of(name),
            model_id=model_id,
            weight_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder else 0,
        )


def slug_of(name: str) -> str:
    """The slug that is proposed for a model of this name."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "target"


def inspect(path: str) -> tuple[TargetFacts | None, list[Finding]]:
    """The facts of a checkpoint directory (None when they cannot be read) and what was found wrong with it."""
    folder, found = find_directory(path, "config.json, tokenizer.json and *.safetensors")
    if folder is None:
        return None, found
    try:
        config, found = read_config(folder / "config.json")
        if config is None:
            return None, found
        found += shape_problems(config, "the embedded engine serves") + _engine_problems(config)
        found += tokenizer_problems(folder, positive_integer(config, "vocab_size"))
        found += end_problems(folder, config) + chat_problems(folder)
        found += _weight_problems(folder, config)
        return TargetFacts.of(config, folder.name, folder=folder), found
    except OSError as error:
        return None, [unreadable(folder, error)]


def find_directory(path: str, contents: str) -> tuple[Path | None, list[Finding]]:
    """The directory that somebody typed, or what is wrong with it."""
    folder = Path(path).expanduser()
    fix = f"Give the directory with {contents}, from / on."
    if not path:
        return None, [Finding(Topic.SOURCE, "No directory is given.", fix)]
    if not folder.is_absolute():
        return None, [Finding(Topic.SOURCE, f"The path {path!r} is not absolute.", fix)]
    try:
        if folder.is_dir():
            return folder, []
        what = "is a file" if folder.exists() else "does not exist"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        return None, [unreadable(folder, error)]
    return None, [Finding(Topic.SOURCE, f"{folder} {what}.", fix)]


def unreadable(folder: Path, error: OSError | ValueError) -> Finding:
    """A directory that the console may not look into."""
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    fix = "Let the user that runs the console read it, or give another directory."
    return Finding(Topic.SOURCE, f"{folder} cannot be read by the console: {why}.", fix)


def read_config(path: Path) -> tuple[dict[str, Any] | None, list[Finding]]:
    """A config.json, or what is wrong with it."""
    fix = "Give a Hugging Face checkpoint directory; download config.json again where it is damaged."
    if not path.is_file():
        return None, [Finding(Topic.SOURCE, f"{path.name} is missing in {path.parent}.", fix)]
    try:
        return read_object(path), []
    except ValueError as error:
        return None, [Finding(Topic.SOURCE, f"{error}.", fix)]


def architecture_of(config: dict[str, Any]) -> str:
    """The first of ``architectures``; "" when none is named."""
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def positive_integer(config: dict[str, Any], key: str) -> int:
    """``config[key]``; 0 when it is no positive whole number."""
    value = config.get(key)
    return value if type(value) is int and value > 0 else 0


def shape_problems(config: dict[str, Any], who: str) -> list[Finding]:
    """What no engine can get round: an architecture or a shape that Aurora's draft does not fit."""
    found = []
    architecture = architecture_of(config)
    if architecture not in ARCHITECTURES:
        says = f"The architecture {architecture or 'is not named in config.json and'} is not supported."
        found.append(Finding(Topic.ARCHITECTURE, says, f"Give a model that {who}: {', '.join(ARCHITECTURES)}."))
    for key, topic in SIZES.items():
        if not positive_integer(config, key):
            says = f"config.json: {key} is {config.get(key)!r}, expected a positive whole number."
            found.append(Finding(topic, says, f"Set {key} in config.json to the number that the model was made with."))
    layers = positive_integer(config, "num_hidden_layers")
    if 0 < layers < MIN_TARGET_LAYERS:
        says = f"The model has {layers} layers: the draft reads three of them and needs {MIN_TARGET_LAYERS} or more."
        found.append(Finding(Topic.LAYERS, says, "Give a larger model: this one is quick without a draft."))
    try:
        rope_theta_of(config)
    except ValueError as error:
        found.append(Finding(Topic.SHAPE, f"{error}.", "Take config.json from the model's publisher."))
    return found


def aux_layer_ids(num_layers: int) -> tuple[int, int, int]:
    """The layers whose outputs (0-based) a new draft of Aurora's reads."""
    return 1, num_layers // 2 - 1, num_layers - 4


def draft_vocabulary(vocab_size: int) -> int:
    """How many of a target's tokens a new draft of Aurora's proposes; the rule of ``DraftConfig.for_target``."""
    return vocab_size if vocab_size <= LARGEST_FULL_VOCABULARY else DRAFT_VOCABULARY


def facts_found(facts: TargetFacts, engine: str) -> list[Finding]:
    """What is right about a target, one line per thing that ``inspect`` looks at."""
    config = facts.config
    heads = positive_integer(config, "num_attention_heads")
    kv_heads = positive_integer(config, "num_key_value_heads") or heads
    low, middle, high = aux_layer_ids(facts.num_layers)
    positions = positive_integer(config, "max_position_embeddings")
    width = f"width {facts.hidden_size}, {heads} heads ({kv_heads} for keys and values)"
    proposed = draft_vocabulary(facts.vocab_size)
    those = "all of them" if proposed == facts.vocab_size else f"the {proposed:,} that text is made of most"
    shape = f"Version 1 is one layer of the target's shape: {width}, max_position_embeddings is {positions}."
    return [
        ok(Topic.SOURCE, f"{facts.path} can be read." if facts.path else f"The config.json of {facts.model_id}."),
        ok(Topic.ARCHITECTURE, f"{facts.architecture}: {engine}."),
        ok(Topic.VOCABULARY, f"{facts.vocab_size:,} token ids; a new draft proposes {those}."),
        ok(Topic.LAYERS, f"A new draft reads the outputs of layers {low}, {middle} and {high} of {facts.num_layers}."),
        ok(Topic.SHAPE, shape),
        ok(Topic.WEIGHTS, "The embedding and the head are there for the trainer."),
    ]


def _engine_problems(config: dict[str, Any]) -> list[Finding]:
    """What the embedded engine cannot do."""
    sglang = "Serve it with SGLang, which can."
    found = []
    if (activation := config.get("hidden_act", ACTIVATION)) != ACTIVATION:
        says = f"hidden_act is {activation!r}, the embedded engine has {ACTIVATION}."
        found.append(Finding(Topic.ARCHITECTURE, says, sglang))
    if config.get("quantization_config"):
        says = f"The checkpoint is quantized: the embedded engine reads {', '.join(DTYPES)} weights."
        found.append(Finding(Topic.WEIGHTS, says, f"Give the checkpoint that is not quantized. Or: {sglang}"))
    if (kind := _rope_type(config)) not in ROPE_TYPES:
        says = f"RoPE scaling {kind!r} is not supported by the embedded engine, which has {', '.join(ROPE_TYPES)}."
        found.append(Finding(Topic.ARCHITECTURE, says, sglang))
    if config.get("use_sliding_window"):
        says = "use_sliding_window is set: the embedded engine attends to everything before."
        found.append(Finding(Topic.ARCHITECTURE, says, sglang))
    return found


def _rope_type(config: dict[str, Any]) -> Any:
    """As the engine reads it; what is no object at all has its own finding."""
    try:
        given = rope_of(config)
    except ValueError:
        return "default"
    return given.get("rope_type", given.get("type", "default"))


def _weight_problems(folder: Path, config: dict[str, Any]) -> list[Finding]:
    tensors, found = read_weights(folder)
    return found or _tensor_problems(tensors, config)


def read_weights(folder: Path) -> tuple[dict[str, dict[str, Any]], list[Finding]]:
    """The headers of the tensors that engine and trainer read, and what is wrong with the files. Raises OSError."""
    index = folder / INDEX
    if not index.is_file():
        if not (folder / SINGLE).is_file():
            return {}, [_no_weights(folder)]
        return _headers(folder, [SINGLE])
    try:
        wanted = {str(tensor): str(file) for tensor, file in json.loads(index.read_bytes())["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        says = f"{INDEX} cannot be read: expected an object with weight_map."
        return {}, [Finding(Topic.WEIGHTS, says, "Download that file again.")]
    files = sorted(set(wanted.values()))
    if missing_files := [name for name in files if not (folder / name).is_file()]:
        says = f"Weight files named by {INDEX} are missing: {', '.join(missing_files)}."
        return {}, [Finding(Topic.WEIGHTS, says, "Finish the download.")]
    tensors: dict[str, dict[str, Any]] = {}
    found: list[Finding] = []
    for file in files:
        header, problems = _headers(folder, [file])
        tensors |= {name: entry for name, entry in header.items() if wanted.get(name) == file}
        found += problems
    if not found and (missing := sorted(wanted.keys() - tensors.keys())):
        says = f"Tensors are not in the files that {INDEX} names for them: {', '.join(missing[:3])}."
        fix = "Download the weights again: index and files are of different models."
        found.append(Finding(Topic.WEIGHTS, says, fix))
    return tensors, found


def _no_weights(folder: Path) -> Finding:
    if any(folder.glob("*.safetensors")):
        says = f"Neither {SINGLE} nor {INDEX} is there, so nothing says which file holds which tensor."
        return Finding(Topic.WEIGHTS, says, f"Put the {INDEX} of this model into the directory.")
    return Finding(Topic.WEIGHTS, "No *.safetensors file is there.", "Give the weights in safetensors format.")


def _headers(folder: Path, files: list[str]) -> tuple[dict[str, dict[str, Any]], list[Finding]]:
    tensors, problems = read_tensors(folder, files)
    return tensors, [Finding(Topic.WEIGHTS, problem, "Download that file again.") for problem in problems]


def _tensor_problems(tensors: dict[str, dict[str, Any]], config: dict[str, Any]) -> list[Finding]:
    """What the engine would miss in the weights; nothing where the config itself is wrong."""
    try:
        model = ModelConfig.from_hf(config)
    except ValueError:
        return []
    found = []
    fix = "Give weights and config.json of one and the same model."
    if model.num_layers > len(tensors):
        says = f"The weights have {len(tensors)} tensors, config.json asks for {model.num_layers} layers."
        return [Finding(Topic.WEIGHTS, says, fix)]
    expected = model.tensor_shapes()
    missing = [name for name in expected if name not in tensors and not name.endswith(".bias")]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        says = f"The weights lack {', '.join(missing[:3])}{more}."
        found.append(Finding(Topic.WEIGHTS, says, fix))
    there = {name: tensors[name] for name in expected if name in tensors}
    for name, entry in there.items():
        if entry.get("shape") != list(expected[name]):
            says = f"{name} has shape {entry.get('shape')}, config.json asks for {list(expected[name])}."
            found.append(Finding(Topic.WEIGHTS, says, fix))
            break
    if odd := sorted({str(entry.get("dtype")) for entry in there.values()} - DTYPES.keys()):
        says = f"Weights of type {', '.join(odd)} are not supported: expected one of {', '.join(DTYPES)}."
        fix = "Give the checkpoint in one of these types, or serve it with SGLang."
        found.append(Finding(Topic.WEIGHTS, says, fix))
    return found
