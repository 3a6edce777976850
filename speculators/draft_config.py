"""The shape of an EAGLE-3 draft and its ``config.json``: no torch.

Layout and names: EAGLE-3 as loaded by SGLang 0.5.2x and vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

MIN_TARGET_LAYERS = 7  # a draft reads three distinct layers: 1, n // 2 - 1 and n - 4
LARGEST_FULL_VOCABULARY = 16_384  # of a target's tokens; a draft proposes all of them up to here,
DRAFT_VOCABULARY = 8_192  # and this many of a larger vocabulary: its head is read once per proposed token
DEFAULT_ROPE_THETA = 10_000.0  # of Llama, Qwen2 and Qwen3 in transformers 5: older configs leave it out

DEFAULT_NORM_EPS = 1e-6  # likewise

ARCHITECTURE = "LlamaForCausalLMEagle3"
WEIGHTS = "model.safetensors"
VOCABULARY_TENSORS = {"d2t": "torch.int64", "t2d": "torch.bool"}
# By these SGLang 0.5.2x computes another draft than ours from the same tensors. Left out, each means what is here.
FIXED = {
    "num_hidden_layers": 1,
    "hidden_act": "silu",
    "norm_output": False,
    "norm_before_fc": False,
    "fc_norm": False,
    "use_aux_norm": False,
    "bias": False,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "rope_is_neox_style": True,
    "partial_rotary_factor": 1,
    "quantization_config": None,
}
FIXED_EAGLE = {"use_aux_hidden_state": True, "norm_before_fc": False}  # of its eagle_config
FIXED_ROPE = {"mrope_section": None, "partial_rotary_factor": 1}  # of what it says of RoPE


@dataclass(frozen=True, slots=True)
class DraftConfig:
    """Shape of a draft, and which layers of the target it reads.

    ``aux_layer_ids`` are 0-based layer *outputs* of the target, low to high.
    """

    hidden_size: int
    target_hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    draft_vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    aux_layer_ids: tuple[int, ...]

    @classmethod
    def for_target(cls, target: dict[str, Any]) -> Self:
        """The default draft for a target's ``config.json``: one layer of the target's own shape.

        Of a large vocabulary it proposes DRAFT_VOCABULARY tokens; which ones, ``Eagle3Draft.take_vocabulary`` is told.

        Raises ValueError when the target has too few layers to tap (MIN_TARGET_LAYERS).
        """
        num_layers, hidden = target["num_hidden_layers"], target["hidden_size"]
        if num_layers < MIN_TARGET_LAYERS:
            problem = f"an EAGLE-3 draft taps three distinct layers, at least {MIN_TARGET_LAYERS} are needed"
            raise ValueError(f"num_hidden_layers={num_layers}: {problem}")
        heads, vocab_size = target["num_attention_heads"], target["vocab_size"]
        return cls(
            hidden_size=hidden,
            target_hidden_size=hidden,
            num_heads=heads,
            num_kv_heads=target.get("num_key_value_heads") or heads,
            head_dim=target.get("head_dim") or hidden // heads,
            intermediate_size=target["intermediate_size"],
            vocab_size=vocab_size,
            draft_vocab_size=vocab_size if vocab_size <= LARGEST_FULL_VOCABULARY else DRAFT_VOCABULARY,
            rms_norm_eps=target.get("rms_norm_eps", DEFAULT_NORM_EPS),
            rope_theta=rope_theta_of(target),
            max_position_embeddings=target["max_position_embeddings"],
            aux_layer_ids=(1, num_layers // 2 - 1, num_layers - 4),
        )

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> Self:
        """Read an EAGLE-3 ``config.json``. Raises ValueError naming a key that is missing or not as ours have it."""
        if problems := unlike_ours(config):
            raise ValueError(f"draft config.json: {'; '.join(problems)}")
        try:
            heads = config["num_attention_heads"]
            return cls(
                hidden_size=config["hidden_size"],
                target_hidden_size=config.get("target_hidden_size", config["hidden_size"]),
                num_heads=heads,
                num_kv_heads=config.get("num_key_value_heads") or heads,
                head_dim=config.get("head_dim") or config["hidden_size"] // heads,
                intermediate_size=config["intermediate_size"],
                vocab_size=config["vocab_size"],
                draft_vocab_size=config["draft_vocab_size"],
                rms_norm_eps=config["rms_norm_eps"],
                rope_theta=rope_theta_of(config),
                max_position_embeddings=config["max_position_embeddings"],
                aux_layer_ids=tuple(config["eagle_config"]["eagle_aux_hidden_state_layer_ids"]),
            )
        except KeyError as missing:
            raise ValueError(f"draft config.json: key {missing} is missing") from None

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of a checkpoint; all hold floating point numbers but for VOCABULARY_TENSORS."""
        h, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "fc.weight": (h, len(self.aux_layer_ids) * self.target_hidden_size),
            "midlayer.self_attn.q_proj.weight": (queries, 2 * h),
            "midlayer.self_attn.k_proj.weight": (keys, 2 * h),
            "midlayer.self_attn.v_proj.weight": (keys, 2 * h),
            "midlayer.self_attn.o_proj.weight": (h, queries),
            "midlayer.mlp.gate_proj.weight": (inner, h),
            "midlayer.mlp.up_proj.weight": (inner, h),
            "midlayer.mlp.down_proj.weight": (h, inner),
            "midlayer.input_layernorm.weight": (h,),
            "midlayer.hidden_norm.weight": (h,),
            "midlayer.post_attention_layernorm.weight": (h,),
            "norm.weight": (h,),
            "lm_head.weight": (self.draft_vocab_size, h),
            "d2t": (self.draft_vocab_size,),
            "t2d": (self.vocab_size,),
        }

    def to_hf(self) -> dict[str, Any]:
        """The ``config.json`` that SGLang and vLLM load (flat form, both RoPE spellings)."""
        return {
            "architectures": [ARCHITECTURE],
            "model_type": "llama",
            "hidden_size": self.hidden_size,
            "target_hidden_size": self.target_hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "num_hidden_layers": 1,
            "hidden_act": "silu",
            "vocab_size": self.vocab_size,
            "draft_vocab_size": self.draft_vocab_size,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "max_position_embeddings": self.max_position_embeddings,
            "attention_bias": False,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "eagle_config": {
                "eagle_aux_hidden_state_layer_ids": list(self.aux_layer_ids),
                "use_aux_hidden_state": True,
            },
        }


def unlike_ours(config: dict[str, Any]) -> list[str]:
    """Why a ``config.json`` is that of a draft which does not compute as ours do; each names key, value and ours."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    problems = [] if name == ARCHITECTURE else [f"architectures names {name or 'nothing'}, expected {ARCHITECTURE}"]
    if "draft_vocab_size" in config and config["draft_vocab_size"] is None:
        problems.append("draft_vocab_size is null, expected the rows of lm_head: SGLang drafts with the target's then")
    eagle = config.get("eagle_config")
    problems += _differing(config, FIXED) + _differing(eagle if isinstance(eagle, dict) else {}, FIXED_EAGLE)
    for key in ("rope_scaling", "rope_parameters"):
        given = config.get(key)
        if isinstance(given, dict):
            kind = given.get("rope_type") or given.get("type") or "default"
            found = _differing({**given, "rope_type": kind}, {"rope_type": "default", **FIXED_ROPE})
            problems += [f"{key}: {problem}" for problem in found]
        elif given:
            problems.append(f"{key} is {given!r}, expected an object with rope_type")
    return problems


def _differing(given: dict[str, Any], fixed: dict[str, Any]) -> list[str]:
    """What is said of these keys and is not what ours have; where ours have nothing, false and empty mean that too."""
    values = [(key, given.get(key), ours) for key, ours in fixed.items()]
    return [
        f"{key} is {value!r}, expected {ours!r}: Aurora's drafts have nothing else"
        for key, value, ours in values
        if value is not None and (value != ours if ours else value)
    ]


def weights_problem(folder: Path) -> str:
    """Why no weights can be read there, "" when they can: a draft is small enough for one file. Raises OSError."""
    if (folder / WEIGHTS).is_file():
        return ""
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".pth"))
    there = f", there is only {' and '.join(others[:2])}" if others else ""
    return f"{WEIGHTS} is missing{there}: expected the weights in one safetensors file of that name"


def rope_theta_of(config: dict[str, Any]) -> float:
    """RoPE base of a Hugging Face config in either spelling. Raises ValueError when it is no positive number."""
    theta = rope_of(config).get("rope_theta", config.get("rope_theta", DEFAULT_ROPE_THETA))
    if not isinstance(theta, int | float) or theta <= 0:
        raise ValueError(f"config.json: rope_theta is {theta!r}, expected a positive number")
    return float(theta)


def rope_of(config: dict[str, Any]) -> dict[str, Any]:
    """What a config says of RoPE, in the order of transformers 5. Raises ValueError when it is no object."""
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise ValueError(f"config.json: rope_scaling is {given!r}, expected an object with rope_type")
    return given
