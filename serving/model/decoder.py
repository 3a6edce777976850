"""The target: a dense decoder of the Llama family in float32 with packed, fused linears and a static KV cache.

Shapes: N rows of a batch (all requests one after another), H hidden, K aux layers, D head dim, V vocabulary.
Weights stay as they are in the checkpoint, with no norm or scale folded in, so that float16 still holds them
(aurora_kernels.packed_linear). Logits equal those of transformers to 1e-4 (tests/unit/serving/model/test_decoder.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from aurora_kernels.packed_linear import PackedLinear
from aurora_kernels.pages import give_back_freed
from aurora_kernels.rows import rms_norm, silu_times
from torch import Tensor

from serving.model.attention import Heads, Rows, Span, key_values
from serving.model.rotary import CausalMasks, Rotary
from serving.model.weights import Weights
from speculators.target_config import ModelConfig


@dataclass(frozen=True, slots=True)
class States:
    """What one forward pass leaves: ``features`` [N, K*H] at the aux layers, ``final`` [N, H] after the last norm."""

    features: Tensor
    final: Tensor


class Decoder:
    """The target with room for ``num_slots`` requests of ``max_len`` tokens each."""

    def __init__(self, folder: Path, aux_layer_ids: Sequence[int], num_slots: int, max_len: int) -> None:
        self.config = c = ModelConfig.read(folder)
        self.aux_layer_ids = tuple(aux_layer_ids)
        self.max_len = min(max_len, c.max_positions)
        rotary = Rotary(self.max_len, c.head_dim, c.rope_theta, c.rope)
        masks = CausalMasks(self.max_len, c.num_heads // c.num_kv_heads)
        with Weights(folder) as weights:
            self.embed_VH = weights.tensor("model.embed_tokens.weight", c.vocab_size, c.hidden_size)
            head = self.embed_VH if c.is_tied else weights.tensor("lm_head.weight", c.vocab_size, c.hidden_size)
            self._norm = weights.tensor("model.norm.weight", c.hidden_size)
            self._layers = [Layer(c, weights, i, num_slots, rotary, masks) for i in range(c.num_layers)]
        self._head = PackedLinear(head)
        give_back_freed()

    @torch.inference_mode()
    def forward(self, ids_N: Tensor, spans: Sequence[Span]) -> States:
        """Run rows through all layers, writing their keys and values; earlier positions must be in the cache."""
        rows = Rows(spans)
        hidden = self.embed_VH[ids_N]
        taps = []
        for i, layer in enumerate(self._layers):
            hidden = layer.forward(hidden, rows)
            if i in self.aux_layer_ids:
                taps.append(hidden)
        final = rms_norm(hidden, self._norm, self.config.norm_eps)
        return States(torch.cat(taps, -1) if taps else hidden[:, :0], final)

    @torch.inference_mode()
    def logits(self, final_NH: Tensor) -> Tensor:
        """[N, H] after the last norm -> [N, V]."""
        return self._head(final_NH)


class Layer:
    """One decoder layer and its cache."""

    def __init__(
        self, c: ModelConfig, weights: Weights, index: int, num_slots: int, rotary: Rotary, masks: CausalMasks
    ) -> None:
        name = f"model.layers.{index}."
        self._c = c
        self._qkv, self._qk_norm = _query_key_value(c, weights, name)
        self._norm = weights.tensor(name + "input_layernorm.weight", c.hidden_size)
        self._out = PackedLinear(
            weights.tensor(name + "self_attn.o_proj.weight", c.hidden_size, c.num_heads * c.head_dim),
            weights.optional(name + "self_attn.o_proj.bias", c.hidden_size),
        )
        self._mlp_norm = weights.tensor(name + "post_attention_layernorm.weight", c.hidden_size)
        both = [(name + f"mlp.{x}_proj", c.intermediate_size) for x in ("gate", "up")]
        self._gate_up = _fused(weights, both, c.hidden_size)
        self._down = PackedLinear(
            weights.tensor(name + "mlp.down_proj.weight", c.hidden_size, c.intermediate_size),
            weights.optional(name + "mlp.down_proj.bias", c.hidden_size),
        )
        self._cache = key_values(num_slots, Heads(c.num_heads, c.num_kv_heads, c.head_dim), rotary, masks)

    def forward(self, hidden: Tensor, rows: Rows) -> Tensor:
        """[N, H] -> [N, H]."""
        c = self._c
        qkv = self._qkv(rms_norm(hidden, self._norm, c.norm_eps))
        if self._qk_norm is not None:
            rotated = qkv.view(len(hidden), -1, c.head_dim)[:, : c.num_heads + c.num_kv_heads]
            rotated.copy_(rms_norm(rotated, None, c.norm_eps) * self._qk_norm)
        queries = self._cache.write(qkv, rows)
        hidden = hidden + self._out(self._cache.attend(queries, rows))
        return hidden + self._down(silu_times(self._gate_up(rms_norm(hidden, self._mlp_norm, c.norm_eps))))


def _query_key_value(c: ModelConfig, weights: Weights, name: str) -> tuple[PackedLinear, Tensor | None]:
    """The fused projection, and for Qwen3 the norm weights [heads + kv_heads, D] of queries and keys."""
    sizes = {"q": c.num_heads, "k": c.num_kv_heads, "v": c.num_kv_heads}
    linears = [(name + f"self_attn.{x}_proj", heads * c.head_dim) for x, heads in sizes.items()]
    fused = _fused(weights, linears, c.hidden_size)
    if not c.has_qk_norm:
        return fused, None
    q_norm, k_norm = (weights.tensor(name + f"self_attn.{x}_norm.weight", c.head_dim) for x in "qk")
    return fused, torch.cat((q_norm.expand(c.num_heads, -1), k_norm.expand(c.num_kv_heads, -1)))


def _fused(weights: Weights, linears: Sequence[tuple[str, int]], size_in: int) -> PackedLinear:
    """Several linears over the same input as one."""
    matrix = torch.cat([weights.tensor(f"{name}.weight", size, size_in) for name, size in linears])
    biases: list[Any] = [weights.optional(f"{name}.bias", size) for name, size in linears]
    if all(bias is None for bias in biases):
        return PackedLinear(matrix)
    filled = [torch.zeros(size) if b is None else b for b, (_, size) in zip(biases, linears, strict=True)]
    return PackedLinear(matrix, torch.cat(filled))
