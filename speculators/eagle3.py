"""The EAGLE-3 draft: one decoder layer over fused target states, with a language-model head of its own.

Shape suffixes: B batch, T positions, H draft hidden, Ht target hidden, K aux layers, D head dim, V draft vocabulary.

Draft entry i holds token x[i+1] and the target feature g[i] = concat(low, middle, high) of position i; it attends to
entries <= i with RoPE position i and predicts x[i+2]. When the draft runs ahead of the target, an entry's hidden is the
``out`` of the entry before it instead of ``fc(g)``. Layout and names: EAGLE-3 as loaded by SGLang 0.5.2x and vLLM.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from aurora_kernels.training_rows import rms_norm, rotated, silu_times
from torch import Tensor, nn
from torch.nn import functional as F

from speculators.draft_config import DraftConfig


def rope_tables(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos, sin of shape [*positions.shape, head_dim / 2] for Llama's half rotation."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angles = positions[..., None].float() * frequencies
    return angles.cos(), angles.sin()


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class DraftAttention(nn.Module):
    """Projections only: the unroll and the engine bring their own attention over keys of several steps."""

    def __init__(self, c: DraftConfig) -> None:
        super().__init__()
        self.q_proj = nn.Linear(2 * c.hidden_size, c.num_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(2 * c.hidden_size, c.num_kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(2 * c.hidden_size, c.num_kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_heads * c.head_dim, c.hidden_size, bias=False)


class DraftMLP(nn.Module):
    def __init__(self, c: DraftConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(silu_times(self.gate_proj(x), self.up_proj(x)))
        return out


class DraftLayer(nn.Module):
    def __init__(self, c: DraftConfig) -> None:
        super().__init__()
        self.self_attn = DraftAttention(c)
        self.mlp = DraftMLP(c)
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)  # on the token embedding
        self.hidden_norm = RMSNorm(c.hidden_size, c.rms_norm_eps)  # on the hidden state
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)


class Eagle3Draft(nn.Module):
    """Parameters named exactly as in the checkpoint. ``d2t`` is an offset: target id = draft id + d2t[draft id]."""

    d2t: Tensor
    t2d: Tensor

    def __init__(self, config: DraftConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = c = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.fc = nn.Linear(len(c.aux_layer_ids) * c.target_hidden_size, c.hidden_size, bias=False)
            self.midlayer = DraftLayer(c)
            self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
            self.lm_head = nn.Linear(c.hidden_size, c.draft_vocab_size, bias=False)
            self.register_buffer("d2t", torch.zeros(c.draft_vocab_size, dtype=torch.int64))
            self.register_buffer("t2d", torch.zeros(c.vocab_size, dtype=torch.bool))
            if not self.fc.weight.is_meta:  # nothing is kept there; asking for numbers loads torch's compiler
                self._fill()

    def _fill(self) -> None:
        """Random weights, and the first ids as the vocabulary."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 if name == "lm_head.weight" else parameter.shape[1] ** -0.5)
        self.t2d[: self.config.draft_vocab_size] = True

    def take_vocabulary(self, target_ids_V: Tensor) -> None:
        """Propose these rising ids of the target, as many as ``draft_vocab_size``; else the first ones are proposed."""
        self.d2t.copy_(target_ids_V - torch.arange(len(target_ids_V), device=target_ids_V.device))
        self.t2d.zero_()
        self.t2d[target_ids_V] = True

    @classmethod
    def from_state(cls, config: DraftConfig, state: dict[str, Tensor]) -> Self:
        """A draft of these tensors, which it shares, on their device; no random weights are drawn to be overwritten."""
        with torch.device("meta"):
            draft = cls(config)
        draft.load_state_dict(state, assign=True)
        return draft

    @property
    def target_ids(self) -> Tensor:
        """What each draft id means to the target: rising int64 [V]."""
        return torch.arange(len(self.d2t), device=self.d2t.device) + self.d2t

    def fuse(self, features_BTK: Tensor) -> Tensor:
        """Target features [B, T, K*Ht] -> hidden [B, T, H]."""
        fused: Tensor = self.fc(features_BTK)
        return fused

    def joined(self, embeds_BTH: Tensor, hidden_BTH: Tensor) -> Tensor:
        """What queries, keys and values are projected from: both normed, side by side [B, T, 2H]."""
        return torch.cat((self.midlayer.input_layernorm(embeds_BTH), self.midlayer.hidden_norm(hidden_BTH)), -1)

    def queries(self, joined_BTH: Tensor, cos_BTR: Tensor, sin_BTR: Tensor) -> Tensor:
        """Rotated queries [B, heads, T, D]."""
        return rotated(self._heads(self.midlayer.self_attn.q_proj(joined_BTH)), cos_BTR, sin_BTR)

    def keys_values(self, joined_BTH: Tensor, cos_BTR: Tensor, sin_BTR: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated keys, and values: [B, kv_heads, T, D]."""
        attention = self.midlayer.self_attn
        values = self._heads(attention.v_proj(joined_BTH)).transpose(1, 2).contiguous()
        return rotated(self._heads(attention.k_proj(joined_BTH)), cos_BTR, sin_BTR), values

    def rope(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        return rope_tables(positions_BT, self.config.head_dim, self.config.rope_theta)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.config.head_dim)

    def finish(self, attended_BHTD: Tensor, hidden_BTH: Tensor) -> Tensor:
        """Residuals and MLP: attention output and the un-normed hidden -> ``out`` [B, T, H]."""
        residual = hidden_BTH + self.midlayer.self_attn.o_proj(attended_BHTD.transpose(1, 2).flatten(2))
        out: Tensor = residual + self.midlayer.mlp(self.midlayer.post_attention_layernorm(residual))
        return out

    def logits(self, out_BTH: Tensor) -> Tensor:
        """[B, T, H] -> [B, T, V] over the draft vocabulary."""
        logits: Tensor = self.lm_head(self.norm(out_BTH))
        return logits

    def forward(self, embeds_BTH: Tensor, hidden_BTH: Tensor, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Causal pass over a whole sequence, no cache: (logits [B, T, V], out [B, T, H])."""
        joined, angles = self.joined(embeds_BTH, hidden_BTH), self.rope(positions_BT)
        q, (k, v) = self.queries(joined, *angles), self.keys_values(joined, *angles)
        groups = self.config.num_heads // self.config.num_kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / math.sqrt(self.config.head_dim))
        out = self.finish(attended, hidden_BTH)
        return self.logits(out), out
