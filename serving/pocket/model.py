"""The pocket target for training: a Llama whose parameters carry the names that transformers gives them.

Shape legend: B rows, T tokens, D width, H heads, K key/value heads, E head width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serving.pocket.tokenizer import EOS_ID, VOCAB_SIZE


@dataclass(frozen=True)
class TargetShape:
    """Deep and narrow, so that a one-layer draft is cheap beside it; 1.7 M parameters.

    Layers this small cost their overhead, not their arithmetic: of the shapes that fit into 2 MB, a step with four
    draft tokens takes 1.55 plain steps here, and 1.85 with 8 layers of feed-forward width 352 (CPU, batch 1).
    """

    num_layers: int = 16
    width: int = 128
    num_heads: int = 4
    num_kv_heads: int = 2
    ff_width: int = 128
    vocab_size: int = VOCAB_SIZE
    max_positions: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def head_width(self) -> int:
        return self.width // self.num_heads

    def hf_config(self) -> dict[str, Any]:
        """The `config.json` that transformers reads."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.width,
            "intermediate_size": self.ff_width,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_width,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": EOS_ID,
            "eos_token_id": EOS_ID,
            "pad_token_id": EOS_ID,
            "torch_dtype": "float32",
        }


class Norm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    def __init__(self, shape: TargetShape) -> None:
        super().__init__()
        self.shape = shape
        kv_width = shape.num_kv_heads * shape.head_width
        self.q_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.k_proj = nn.Linear(shape.width, kv_width, bias=False)
        self.v_proj = nn.Linear(shape.width, kv_width, bias=False)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        rows, tokens, width = x_BTD.shape
        q, k, v = (
            layer(x_BTD).view(rows, tokens, -1, self.shape.head_width).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos_TE, sin_TE), rotate(k, cos_TE, sin_TE)
        groups = self.shape.num_heads // self.shape.num_kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        future = torch.full((tokens, tokens), float("-inf"), dtype=q.dtype).triu(1)
        # torch's fused attention takes twice as long backwards, on a CPU in bfloat16
        mixed = torch.softmax(q @ k.mT * self.shape.head_width**-0.5 + future, -1) @ v
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(rows, tokens, width))
        return out


class FeedForward(nn.Module):
    def __init__(self, shape: TargetShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.ff_width, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.ff_width, bias=False)
        self.down_proj = nn.Linear(shape.ff_width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, shape: TargetShape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.width, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.width, shape.norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Trunk(nn.Module):
    def __init__(self, shape: TargetShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.norm = Norm(shape.width, shape.norm_eps)


class Target(nn.Module):
    """The whole model; its `state_dict()` keys are those of LlamaForCausalLM with tied embeddings."""

    def __init__(self, shape: TargetShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Trunk(shape)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                small = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / ((2 * shape.num_layers) ** 0.5 if small else 1.0))
        # Large beside what the first layers write, so that the later ones can read which token it was.
        nn.init.normal_(self.model.embed_tokens.weight, std=0.5)
        nn.init.constant_(self.model.norm.weight, 0.1)  # the head is the same matrix, and logits should start small

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits [B, T, V] of the next token; ids are int64 [B, T]."""
        cos, sin = rope_tables(ids_BT.shape[1], self.shape)
        x = self.model.embed_tokens(ids_BT)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)

    def loss(self, ids_BT: Tensor, weights_BT: Tensor) -> Tensor:
        """Weighted mean of the cross-entropy in nats of tokens 1..T-1 given those before."""
        logits = self(ids_BT[:, :-1])
        nats = F.cross_entropy(logits.flatten(0, 1).float(), ids_BT[:, 1:].reshape(-1), reduction="none")
        weights = weights_BT[:, 1:].reshape(-1)
        return (nats * weights).sum() / weights.sum()


def rope_tables(num_tokens: int, shape: TargetShape) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, E] of the rotary embedding, halves repeated as in transformers."""
    steps = torch.arange(0, shape.head_width, 2, dtype=torch.float32) / shape.head_width
    angles = torch.outer(torch.arange(num_tokens, dtype=torch.float32), shape.rope_theta**-steps)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Apply the rotary embedding to [B, H, T, E]."""
    low, high = x.chunk(2, dim=-1)
    return x * cos_TE.to(x.dtype) + torch.cat((-high, low), dim=-1) * sin_TE.to(x.dtype)
