"""What Aurora needs to know of a target's ``config.json`` and of its weight files: no torch.

The engine serves by it, and the console says by it what the engine cannot serve.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from speculators.draft_config import rope_of, rope_theta_of

ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
ACTIVATION = "silu"
ROPE_TYPES = ("default", "linear", "llama3")
DTYPES = {"F32": "torch.float32", "BF16": "torch.bfloat16", "F16": "torch.float16"}  # of weights: safetensors, torch
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"  # tensor -> file; where it is there, nothing else is looked at
GENERATION = "generation_config.json"  # need not be there
# Keys without which no number of layers, heads or positions follows
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How the rotary frequencies are stretched; field names as in transformers."""

    kind: str  # one of ROPE_TYPES
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A dense decoder of the Llama family."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    norm_eps: float
    rope_theta: float
    rope: RopeScaling
    max_positions: int
    is_tied: bool
    has_qk_norm: bool  # Qwen3
    eos_token_ids: tuple[int, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``config.json`` (and end tokens from ``generation_config.json``).

        Raises FileNotFoundError, or ValueError naming what this engine cannot serve.
        """
        config = read_object(folder / "config.json")
        return cls.from_hf(config, end_tokens(folder, config))

    @classmethod
    def from_hf(cls, config: dict[str, Any], ends: tuple[int, ...] = ()) -> Self:
        """Raises ValueError naming what is missing, or what of it the embedded engine does not support."""
        names = config.get("architectures")
        name = names[0] if isinstance(names, list) and names else None
        _require(name in ARCHITECTURES, "architectures", name, f"must be one of {', '.join(ARCHITECTURES)}")
        activation = config.get("hidden_act", ACTIVATION)
        _require(activation == ACTIVATION, "hidden_act", activation, f"must be {ACTIVATION}")
        window = bool(config.get("use_sliding_window"))
        _require(not window, "use_sliding_window", window, "sliding windows are not supported by this engine")
        quantized = config.get("quantization_config")
        _require(not quantized, "quantization_config", quantized, f"weights must be one of {', '.join(DTYPES)}")
        for key in SIZES:
            is_size = type(config.get(key)) is int and config[key] > 0
            _require(is_size, key, config.get(key), "must be a positive whole number")
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=hidden,
            num_layers=config["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            intermediate_size=config["intermediate_size"],
            norm_eps=config.get("rms_norm_eps", 1e-6),
            rope_theta=rope_theta_of(config),
            rope=_rope(config),
            max_positions=config["max_position_embeddings"],
            is_tied=bool(config.get("tie_word_embeddings", False)),
            has_qk_norm=name == "Qwen3ForCausalLM",
            eos_token_ids=ends,
        )

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that the engine reads and its shape; of those that end in ``.bias`` any may be missing."""
        h, inner = self.hidden_size, self.intermediate_size
        heads, kv_heads = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        linears = {
            "self_attn.q_proj": (heads, h),
            "self_attn.k_proj": (kv_heads, h),
            "self_attn.v_proj": (kv_heads, h),
            "self_attn.o_proj": (h, heads),
            "mlp.gate_proj": (inner, h),
            "mlp.up_proj": (inner, h),
            "mlp.down_proj": (h, inner),
        }
        layer: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in linears.items()}
        layer |= {f"{name}.bias": shape[:1] for name, shape in linears.items()}
        layer |= {"input_layernorm.weight": (h,), "post_attention_layernorm.weight": (h,)}
        if self.has_qk_norm:
            layer |= {f"self_attn.{x}_norm.weight": (self.head_dim,) for x in "qk"}
        whole: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, h)}
        whole |= {"model.norm.weight": (h,)} | ({} if self.is_tied else {"lm_head.weight": (self.vocab_size, h)})
        return whole | {
            f"model.layers.{i}.{name}": shape for i in range(self.num_layers) for name, shape in layer.items()
        }


def end_tokens(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    """The tokens that end an answer: those of ``generation_config.json``, else those of ``config``.

    Raises OSError, or ValueError naming the file that is at fault.
    """
    path = folder / GENERATION
    source, given = path.name, read_object(path).get("eos_token_id") if path.exists() else None
    if given is None:
        source, given = "config.json", config.get("eos_token_id")
    ends = [] if given is None else given if isinstance(given, list) else [given]
    if not all(type(end) is int for end in ends):
        raise ValueError(f"{source}: eos_token_id is {given!r:.80}, expected a whole number or a list of them")
    return tuple(ends)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises OSError, or ValueError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds {type(content).__name__}, expected an object")
    return content


def _rope(config: dict[str, Any]) -> RopeScaling:
    given = rope_of(config)
    kind = given.get("rope_type", given.get("type", "default"))
    _require(kind in ROPE_TYPES, "rope_type", kind, f"must be one of {', '.join(ROPE_TYPES)}")
    return RopeScaling(
        kind=kind,
        factor=given.get("factor", 1.0),
        low_freq_factor=given.get("low_freq_factor", 1.0),
        high_freq_factor=given.get("high_freq_factor", 4.0),
        original_max_positions=given.get("original_max_position_embeddings", config["max_position_embeddings"]),
    )


def _require(is_right: bool, name: str, value: object, expected: str) -> None:
    if not is_right:
        raise ValueError(f"config.json: {name}={value!r}: {expected}")
