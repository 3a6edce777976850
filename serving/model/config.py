"""What the decoder needs to know of a Hugging Face ``config.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from speculators.draft_config import rope_theta_of

ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
ROPE_TYPES = ("default", "linear", "llama3")


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
        config = _json(folder / "config.json")
        generation = folder / "generation_config.json"
        ends = _json(generation).get("eos_token_id") if generation.exists() else None
        return cls.from_hf(config, ends if ends is not None else config.get("eos_token_id"))

    @classmethod
    def from_hf(cls, config: dict[str, Any], eos: int | list[int] | None = None) -> Self:
        """Raises ValueError naming an architecture, activation, RoPE type or window that is not supported."""
        name = (config.get("architectures") or ["none"])[0]
        _require(name in ARCHITECTURES, "architectures", name, f"must be one of {', '.join(ARCHITECTURES)}")
        _require(config.get("hidden_act", "silu") == "silu", "hidden_act", config.get("hidden_act"), "must be silu")
        window = bool(config.get("use_sliding_window"))
        _require(not window, "use_sliding_window", window, "sliding windows are not supported by this engine")
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        ends = [] if eos is None else [eos] if isinstance(eos, int) else eos
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
            eos_token_ids=tuple(ends),
        )


def _rope(config: dict[str, Any]) -> RopeScaling:
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
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


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
