"""SGLang's objects as far as the plugin reads them, and a draft laid out in memory as SGLang lays it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft

CONFIG = DraftConfig(
    hidden_size=8, target_hidden_size=8, num_heads=4, num_kv_heads=2, head_dim=2, intermediate_size=12, vocab_size=32,
    draft_vocab_size=32, rms_norm_eps=1e-5, rope_theta=1e4, max_position_embeddings=64, aux_layer_ids=(1, 2, 4),
)  # fmt: skip

TARGET = {
    "vocab_size": CONFIG.vocab_size,
    "hidden_size": CONFIG.hidden_size,
    "max_position_embeddings": CONFIG.max_position_embeddings,
    "num_hidden_layers": 8,
}

# The hooks that capture needs, written out: a test that asked the guard for them would follow whatever it says.
CAPTURE_HOOKS = ("prefill", "step", "extend", "verify", "final", "stream", "request")


def draft_state(seed: int = 0) -> dict[str, Tensor]:
    return Eagle3Draft(CONFIG, seed).state_dict()


class _Linear(nn.Module):
    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, columns), requires_grad=False)


class FakeDraftModel(nn.Module):
    """One rank's draft: fused matrices, cut by rank, loaded in place as SGLang's ``load_weights`` does."""

    def __init__(self, rank: int = 0, size: int = 1, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        c, self.rank, self.size = CONFIG, rank, size
        heads, kv_heads = c.num_heads // size, max(1, c.num_kv_heads // size)
        self.config = SimpleNamespace(draft_vocab_size=c.draft_vocab_size, vocab_size=c.vocab_size)
        self.hot_token_id: Tensor | None = None
        self.lm_head = _Linear(c.draft_vocab_size // size, c.hidden_size)
        layer = nn.Module()
        layer.self_attn = nn.Module()
        qkv = _Linear((heads + 2 * kv_heads) * c.head_dim, 2 * c.hidden_size)
        qkv.num_heads, qkv.num_kv_heads, qkv.head_size, qkv.tp_rank, qkv.tp_size = (
            heads,
            kv_heads,
            c.head_dim,
            rank,
            size,
        )
        layer.self_attn.qkv_proj = qkv
        layer.self_attn.o_proj = _Linear(c.hidden_size, heads * c.head_dim)
        layer.mlp = nn.Module()
        layer.mlp.gate_up_proj = _Linear(2 * c.intermediate_size // size, c.hidden_size)
        layer.mlp.down_proj = _Linear(c.hidden_size, c.intermediate_size // size)
        for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm"):
            setattr(layer, name, nn.RMSNorm(c.hidden_size))
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([layer])
        self.model.fc = nn.Linear(3 * c.target_hidden_size, c.hidden_size, bias=False)
        self.model.norm = nn.RMSNorm(c.hidden_size)
        self.to(dtype)

    @torch.no_grad()
    def load_weights(self, payload: list[tuple[str, Tensor]]) -> None:
        layer, given, rank, size = self.model.layers[0], dict(payload), self.rank, self.size
        attention, mlp = "midlayer.self_attn.", "midlayer.mlp."

        def rows(name: str, pieces: int) -> Tensor:
            return given[name].chunk(pieces, 0)[rank * pieces // size]

        kv_pieces = min(size, CONFIG.num_kv_heads)
        fused = [rows(attention + "q_proj.weight", size)]
        fused += [rows(attention + f"{x}_proj.weight", kv_pieces) for x in "kv"]
        layer.self_attn.qkv_proj.weight.copy_(torch.cat(fused))
        layer.self_attn.o_proj.weight.copy_(given[attention + "o_proj.weight"].chunk(size, 1)[rank])
        layer.mlp.gate_up_proj.weight.copy_(torch.cat([rows(mlp + f"{x}_proj.weight", size) for x in ("gate", "up")]))
        layer.mlp.down_proj.weight.copy_(given[mlp + "down_proj.weight"].chunk(size, 1)[rank])
        for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm"):
            getattr(layer, name).weight.copy_(given[f"midlayer.{name}.weight"])
        self.model.fc.weight.copy_(given["fc.weight"])
        self.model.norm.weight.copy_(given["norm.weight"])
        self.lm_head.weight.copy_(rows("lm_head.weight", size))


@dataclass
class FakeRunner:
    """A ModelRunner with its weight updater; ``calls`` says in which order it was used."""

    model: FakeDraftModel
    calls: list[str] = field(default_factory=list)

    @property
    def weight_updater(self) -> Any:
        return SimpleNamespace(
            begin_weight_update=lambda: self.calls.append("begin"),
            end_weight_update=lambda run_post_load: self.calls.append(f"end {run_post_load}"),
        )


def request(rid: str, prompt: list[int], output: list[int] | None = None, **more: Any) -> Any:
    """A Req; ``reason`` set = it has finished, with the first ``num_kept`` tokens of its output."""
    reason, kept = more.pop("reason", None), (output or [])[: more.pop("num_kept", None)]
    sampling = SimpleNamespace(top_k=1, temperature=1.0, custom_params=more.pop("custom_params", None))
    others = ("input_embeds", "positional_embed_overrides", "multimodal_inputs", "lora_id")
    more = dict.fromkeys(others) | more
    return SimpleNamespace(
        rid=rid, origin_input_ids=prompt, output_ids=output or [], output_ids_through_stop=kept,
        sampling_params=sampling, finished_output=None,
        finished_reason=SimpleNamespace(to_json=lambda: {"type": reason}) if reason else None,
        routing_key=more.pop("routing_key", "|aurora::"), **more,
    )  # fmt: skip


def prefill_batch(
    requests: list[Any], prefix_lens: list[int], extend_lens: list[int], tails: list[Any] | None = None
) -> Any:
    """``tails``: of the requests, those that run and go on by one token (--enable-mixed-chunk)."""
    return SimpleNamespace(
        reqs=requests,
        prefix_lens=prefix_lens,
        extend_lens=extend_lens,
        decoding_reqs=tails,
        forward_mode=SimpleNamespace(is_idle=lambda: False),
    )


def verify_step(
    requests: list[Any], starts: list[int], tokens: list[list[int]], accept_lens: list[int], width: int = 6, **tree: Any
) -> tuple[Any, Any, Any]:
    """(batch, tree, result) of a chain step; state rows hold 100 * position of their node."""
    nodes = len(tokens[0])
    index = [[b * nodes + j if j < n else -1 for j in range(nodes)] for b, n in enumerate(accept_lens)]
    positions = torch.tensor([[start + j for j in range(nodes)] for start in starts])
    hidden = positions.reshape(-1, 1).float() * 100 + torch.zeros(1, width)
    info = SimpleNamespace(
        draft_token_num=nodes, topk=tree.get("topk", 1), spec_steps=nodes - 1,
        draft_token=torch.tensor(tokens).reshape(-1), positions=positions.reshape(-1),
        retrieve_next_token=tree.get("next_token"), retrieve_next_sibling=tree.get("next_sibling"),
    )  # fmt: skip
    result = SimpleNamespace(
        accept_lens=torch.tensor(accept_lens), accept_index=torch.tensor(index),
        logits_output=SimpleNamespace(hidden_states=hidden),
    )  # fmt: skip
    return SimpleNamespace(reqs=requests), info, result


class FakeGraph(TorchDispatchMode):
    """A CUDA graph as far as writes into tensors go: none is done while it is captured, all of them by every replay."""

    num_open = 0

    def __init__(self) -> None:
        super().__init__()
        self._writes: list[Callable[[], Any]] = []

    def __enter__(self) -> FakeGraph:
        FakeGraph.num_open += 1
        super().__enter__()
        return self

    def __exit__(self, *given: Any) -> None:
        super().__exit__(*given)
        FakeGraph.num_open -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func._schema.is_mutable:
            return func(*args, **(kwargs or {}))
        self._writes.append(lambda: func(*args, **(kwargs or {})))
        return args[0]

    def replay(self) -> None:
        for write in self._writes:
            write()

    @staticmethod
    def is_capturing(hidden: Tensor) -> bool:
        """Instead of the device's answer."""
        return FakeGraph.num_open > 0
