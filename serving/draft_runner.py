"""An EAGLE-3 draft as the engine runs it: packed linears, a static cache, entries refilled from the target's states.

Entry i of a request holds token x[i + 1] beside the target's features of position i and predicts x[i + 2]
(speculators/eagle3.py). ``extend`` writes the entries of committed positions and gives the first guess; ``chain``
runs ahead of the target on the draft's own hidden states. What a chain wrote is overwritten by the next ``extend``.

Shapes: N rows, B requests, H draft hidden, K*Ht target features, V draft vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from aurora_kernels.packed_linear import PackedLinear, leanest_dtype
from aurora_kernels.rows import rms_norm, silu_times
from torch import Tensor

from serving.model.attention import Heads, Rows, Span, key_values
from serving.model.rotary import CausalMasks, Rotary
from speculators import checkpoint
from speculators.checkpoint import CheckpointError
from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft
from speculators.target_config import RopeScaling

# Difference between the logits of the packed draft and of the float32 reference, relative to these (norms over the
# vocabulary): the median over some made-up contexts. A well trained draft attends sharply, and in bfloat16 a context
# in a hundred goes another way (0.1 and more, the median of five 0.02 at most); a matrix packed wrongly: 0.45 at least.
TRY_OUT_TOLERANCE = {torch.float32: 2e-3, torch.float16: 0.03, torch.bfloat16: 0.15}
TRY_OUT_CONTEXTS = 5


@dataclass(frozen=True, slots=True)
class Guess:
    """``logits`` [B, V] over the draft's vocabulary, and the ``hidden`` [B, H] that the next chain step starts from."""

    logits: Tensor
    hidden: Tensor


class DraftRunner:
    """One speculator version in memory, with room for every slot of the engine.

    ``dtype``: of the weights; None = ``leanest_dtype``. A draft reads all its weights for one row per request, so half
    the bytes are half the time. What a rounded draft proposes differs a little; the target alone says what is kept.
    """

    def __init__(
        self,
        config: DraftConfig,
        state: dict[str, Tensor],
        embed_VH: Tensor,
        slots: int,
        max_len: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.config = c = config
        self.dtype = dtype or leanest_dtype(embed_VH.device)
        self.sha256 = checkpoint.state_digest(state)
        self._embed_VH = embed_VH  # the target's own, not a copy: it is the largest tensor of a small model
        self._d2t = state["d2t"] + torch.arange(c.draft_vocab_size)
        self._target_ids: list[int] = self._d2t.tolist()
        self._is_identity = bool((state["d2t"] == 0).all())
        layer = "midlayer."
        into = torch.cat((state[layer + "input_layernorm.weight"], state[layer + "hidden_norm.weight"])).float()
        projections = [state[f"{layer}self_attn.{x}_proj.weight"].float() * into for x in "qkv"]
        after = state[layer + "post_attention_layernorm.weight"].float()
        linear = partial(_linear, dtype=self.dtype)
        self._fc = linear(state["fc.weight"].float())
        self._qkv = linear(torch.cat(projections))
        self._out = linear(state[layer + "self_attn.o_proj.weight"].float())
        self._gate_up = linear(
            torch.cat([state[f"{layer}mlp.{x}_proj.weight"].float() * after for x in ("gate", "up")])
        )
        self._down = linear(state[layer + "mlp.down_proj.weight"].float())
        self._head = linear(state["lm_head.weight"].float() * state["norm.weight"].float())
        rotary = Rotary(max_len, c.head_dim, c.rope_theta, RopeScaling("default"))
        masks = CausalMasks(max_len, c.num_heads // c.num_kv_heads)
        self._cache = key_values(slots, Heads(c.num_heads, c.num_kv_heads, c.head_dim), rotary, masks)
        self._packed = self._fingerprint()

    def in_memory(self) -> str:
        """``sha256`` while the weights are what was packed; else a checksum of what is in their place."""
        found = self._fingerprint()
        return self.sha256 if found == self._packed else found

    @torch.inference_mode()
    def _fingerprint(self) -> str:
        """SHA-256 of what each matrix makes of a fixed row, bit by bit: kernels keep weights in layouts of their own.

        Sees what changes that output. The rounding of its sums to float32 may hide the lowest bit of a weight that is
        small in its row.
        """
        c, digest = self.config, hashlib.sha256(self._d2t.numpy().tobytes())
        attended, features = c.num_heads * c.head_dim, len(c.aux_layer_ids) * c.target_hidden_size
        for linear, size in (
            (self._fc, features), (self._qkv, 2 * c.hidden_size), (self._out, attended),
            (self._gate_up, c.hidden_size), (self._down, c.intermediate_size), (self._head, c.hidden_size),
        ):  # fmt: skip
            row = torch.randn(1, size, generator=torch.Generator().manual_seed(size))
            digest.update(linear(row).numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def extend(self, features_NK: Tensor, next_ids_N: Tensor, spans: Sequence[Span]) -> Guess:
        """Write the entries of the spans and guess from the last entry of each."""
        rows = Rows(spans)
        hidden = self._fc(features_NK)
        queries = self._write(hidden, next_ids_N, rows)
        last = torch.tensor([sum(s.num for s in spans[: i + 1]) - 1 for i in range(len(spans))])
        return self._guess(hidden[last], queries[last], rows.last())

    @torch.inference_mode()
    def look(self, features_NK: Tensor, next_ids_N: Tensor, span: Span, num: int) -> Tensor:
        """Write the entries of a span, and guess from the last ``num`` before its last one: logits [num, V]."""
        hidden = self._fc(features_NK)
        queries = self._write(hidden, next_ids_N, Rows([span]))
        chosen = slice(span.num - 1 - num, span.num - 1)
        return self._guess(hidden[chosen], queries[chosen], Rows([Span(span.slot, span.end - 1 - num, num)])).logits

    @torch.inference_mode()
    def chain(self, hidden_BH: Tensor, ids_B: Tensor, spans: Sequence[Span]) -> Guess:
        """One entry for each request (spans of one row), on the hidden states of the guess before."""
        rows = Rows(spans)
        return self._guess(hidden_BH, self._write(hidden_BH, ids_B, rows), rows)

    def to_target(self, draft_ids: Sequence[int]) -> list[int]:
        """Draft vocabulary -> target vocabulary."""
        return [self._target_ids[draft_id] for draft_id in draft_ids]

    def among_mine(self, probabilities_NV: Tensor) -> Tensor:
        """Of distributions over the target's vocabulary, what they give to the tokens that this draft can say."""
        return probabilities_NV[:, self._d2t]

    def over_target(self, probabilities_V: Tensor, vocab_size: int) -> Tensor:
        """A distribution over the draft's vocabulary as one over the target's."""
        if self._is_identity and self.config.draft_vocab_size == vocab_size:
            return probabilities_V
        return torch.zeros(vocab_size).index_copy_(0, self._d2t, probabilities_V)

    def _write(self, hidden: Tensor, ids: Tensor, rows: Rows) -> Tensor:
        """Project rows, store their keys and values, return the queries [N, heads, D]."""
        pairs = torch.stack((self._embed_VH[ids], hidden), 1)  # each normed by itself
        return self._cache.write(self._qkv(rms_norm(pairs, None, self.config.rms_norm_eps).flatten(1)), rows)

    def _guess(self, hidden_BH: Tensor, queries_BHD: Tensor, rows: Rows) -> Guess:
        """Attention of each request's last entry over its cache, MLP, head."""
        eps = self.config.rms_norm_eps
        hidden = hidden_BH + self._out(self._cache.attend(queries_BHD, rows))
        out = hidden + self._down(silu_times(self._gate_up(rms_norm(hidden, None, eps))))
        return Guess(self._head(rms_norm(out, None, eps)), out)


def _linear(weight: Tensor, dtype: torch.dtype) -> PackedLinear:
    """Laid out for one row: each step of a chain has one per request."""
    return PackedLinear(weight.to(dtype), rows=1)


def load(directory: Path, embed_VH: Tensor, slots: int, max_len: int, expected_sha256: str | None) -> DraftRunner:
    """Read, check, pack and try out a checkpoint. ``embed_VH`` is the target's. Raises CheckpointError."""
    config, state = checkpoint.load(directory, expected_sha256)
    if (config.vocab_size, config.hidden_size) != tuple(embed_VH.shape):
        ours = f"vocab_size={config.vocab_size}, hidden_size={config.hidden_size}"
        raise CheckpointError(f"{directory}: {ours}; the target has {embed_VH.shape[0]} and {embed_VH.shape[1]}")
    if config.max_position_embeddings < max_len:
        problem = f"max_position_embeddings={config.max_position_embeddings}, this engine serves {max_len} tokens"
        raise CheckpointError(f"{directory}: {problem}")
    runner = DraftRunner(config, state, embed_VH, slots, max_len)
    _try_out(runner, config, state, embed_VH, directory)
    return runner


@torch.inference_mode()
def _try_out(
    runner: DraftRunner, config: DraftConfig, state: dict[str, Tensor], embed_VH: Tensor, directory: Path
) -> None:
    """The packed draft must say what the reference says, on made-up states; scratch in slot 0 is overwritten later."""
    reference = Eagle3Draft.from_state(config, {k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    generator = torch.Generator().manual_seed(0)
    differences = sorted(_difference(runner, reference, embed_VH, generator) for _ in range(TRY_OUT_CONTEXTS))
    difference = differences[TRY_OUT_CONTEXTS // 2]
    if not (math.isfinite(differences[-1]) and difference <= TRY_OUT_TOLERANCE[runner.dtype]):
        found = f"{difference:.2g} of these, worst {differences[-1]:.2g}"
        raise CheckpointError(f"{directory}: packed logits differ from the reference by {found}")


def _difference(runner: DraftRunner, reference: Eagle3Draft, embed_VH: Tensor, generator: torch.Generator) -> float:
    """Relative difference of the logits after one made-up context; infinite where they are no numbers."""
    num_rows, config = 6, reference.config
    features = torch.randn(num_rows, len(config.aux_layer_ids) * config.target_hidden_size, generator=generator)
    ids = torch.randint(0, config.vocab_size, (num_rows,), generator=generator)
    expected, _ = reference(embed_VH[ids][None], reference.fuse(features)[None], torch.arange(num_rows)[None])
    got = runner.extend(features, ids, [Span(0, 0, num_rows)]).logits
    difference = float((got[0] - expected[0, -1]).norm() / expected[0, -1].norm().clamp_min(1e-6))
    return difference if math.isfinite(difference) else math.inf
