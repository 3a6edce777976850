"""What a target will need, reckoned from its config alone: memory by part, and the stream of hidden states.

Estimates: activations, fragmentation and the engines' own buffers come on top. Each carries its formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aurora_web.registry.compatibility import TargetFacts, draft_vocabulary, positive_integer
from aurora_web.registry.models import Source

NUM_AUX_LAYERS = 3
BYTES_PER_STATE = 2  # hidden states are kept as float16
FLOAT32 = 4
SEGMENT_QUOTA_GIB = 8  # of hidden states on a server: serving/trace/parts.py, serving/sglang_backend/config.py
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Of one draft parameter on the trainer, float32 each: the weight, its gradient, the average that is published, and the
# optimiser's momentum; AdamW keeps a second one (of the head and the norms), Muon does not.
TRAINER_COPIES = 4
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes that one thing takes, and the formula."""

    name: str
    num_bytes: int
    how: str
    where: str  # "server" | "trainer"

    @property
    def gib(self) -> float:
        return self.num_bytes / GIB


@dataclass(frozen=True, slots=True)
class DraftShape:
    """What the draft's size follows from; a new draft has the target's own shape, and of a large vocabulary a part."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    draft_vocabulary: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> DraftShape:
        heads, hidden = positive_integer(config, "num_attention_heads"), positive_integer(config, "hidden_size")
        vocabulary = positive_integer(config, "vocab_size")
        return cls(
            hidden,
            heads,
            positive_integer(config, "num_key_value_heads") or heads,
            positive_integer(config, "head_dim") or (hidden // heads if heads else 0),
            positive_integer(config, "intermediate_size"),
            vocabulary,
            draft_vocabulary(vocabulary),
        )

    @property
    def num_matrix_parameters(self) -> int:
        """Inside the layer and before it: fc, the four projections (queries see token and state), the MLP."""
        attention = self.hidden * self.head_dim * (3 * self.heads + 4 * self.kv_heads)
        return NUM_AUX_LAYERS * self.hidden**2 + attention + 3 * self.hidden * self.intermediate

    @property
    def num_other_parameters(self) -> int:
        """Head and norms."""
        return self.draft_vocabulary * self.hidden + 4 * self.hidden

    @property
    def num_parameters(self) -> int:
        return self.num_matrix_parameters + self.num_other_parameters


def weight_bytes_of(facts: TargetFacts, source: str) -> tuple[int, str]:
    """Bytes of the target's weights where they are served, and how that was reckoned."""
    if facts.weight_bytes and source == Source.SGLANG:
        return facts.weight_bytes, "the size of its safetensors files"
    stored = DTYPE_BYTES.get(str(facts.config.get("dtype") or facts.config.get("torch_dtype")), 2)
    if facts.weight_bytes:
        return facts.weight_bytes * FLOAT32 // stored, f"its files, read as float32 ({FLOAT32} bytes for {stored})"
    shape = DraftShape.of(facts.config)
    layer = shape.hidden * shape.head_dim * 2 * (shape.heads + shape.kv_heads) + 3 * shape.hidden * shape.intermediate
    tables = shape.vocabulary * shape.hidden * (1 if facts.config.get("tie_word_embeddings") else 2)
    how = f"{facts.num_layers} layers, embedding and head, {stored} bytes per parameter"
    return (facts.num_layers * layer + tables) * stored, how


def memory(facts: TargetFacts, source: str) -> list[Part]:
    """The large parts, on the server first and then on the trainer."""
    shape = DraftShape.of(facts.config)
    context = positive_integer(facts.config, "max_position_embeddings")
    is_float32 = source == Source.EMBEDDED
    number = FLOAT32 if is_float32 else BYTES_PER_STATE
    target_bytes, target_how = weight_bytes_of(facts, source)
    per_token = 2 * (facts.num_layers + 1) * shape.kv_heads * shape.head_dim * number
    kv_how = (
        f"2 x ({facts.num_layers} layers + the draft's) x {shape.kv_heads} x {shape.head_dim} x {number} bytes = "
        f"{per_token:,} bytes per token, for one request of max_position_embeddings = {context:,} tokens"
    )
    draft_how = f"{shape.num_parameters:,} parameters x {number} bytes"
    optimiser = shape.num_parameters * TRAINER_COPIES + shape.num_other_parameters
    trainer_how = f"{shape.num_parameters:,} x {TRAINER_COPIES} + {shape.num_other_parameters:,} numbers x 4 bytes: "
    trainer_how += "weight, gradient, average and momentum, and AdamW's second moment of head and norms"
    tables = shape.vocabulary * shape.hidden * (1 if facts.config.get("tie_word_embeddings") else 2)
    return [
        Part("target", target_bytes, target_how, "server"),
        Part("draft", shape.num_parameters * number, draft_how, "server"),
        Part("KV cache of one full context", per_token * context, kv_how, "server"),
        Part("draft with optimiser", optimiser * FLOAT32, trainer_how, "trainer"),
        Part("the target's embedding and head", tables * FLOAT32, f"{tables:,} parameters x 4 bytes", "trainer"),
    ]


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """The stream of hidden states to the trainer."""

    bytes_per_token: int
    tokens_per_second: float
    how: str

    @property
    def megabytes_per_second(self) -> float:
        return self.bytes_per_token * self.tokens_per_second / 1e6


def bandwidth(facts: TargetFacts, tokens_per_second: float) -> Bandwidth:
    """Of every position the aux layers' outputs and the last normed state, float16."""
    per_token = (NUM_AUX_LAYERS + 1) * facts.hidden_size * BYTES_PER_STATE
    how = f"({NUM_AUX_LAYERS} aux layers + the last normed state) x {facts.hidden_size} x {BYTES_PER_STATE} bytes"
    return Bandwidth(per_token, tokens_per_second, how)
