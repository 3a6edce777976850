"""The draft's weights as they lie in SGLang's memory, in checkpoint layout, and a fingerprint of the target's.

SGLang 0.5.21 fuses q, k, v into ``qkv_proj`` and gate, up into ``gate_up_proj``, and splits matrices over its ranks;
``embed_tokens`` is the target's own tensor and is never written. SGLang reads ``d2t`` once at its start, into a tensor
by which it maps proposals from then on; a version with another vocabulary is written into that.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from typing import Any

import torch
from torch import Tensor

from speculators import checkpoint
from speculators.checkpoint import CheckpointError

log = logging.getLogger(__name__)

VOCABULARY = ("d2t", "t2d")  # what SGLang's own ways to load weights do not reach
FULL_FINGERPRINT_BYTES = 256 << 20
SAMPLES_PER_TENSOR = 4096
REST_SECONDS = 0.01
ATTENTION = "midlayer.self_attn."
MLP = "midlayer.mlp."


class DraftMemory:
    """One rank's draft. ``runner`` is SGLang's ModelRunner of the draft, ``worker`` its owner, which maps proposals."""

    def __init__(self, runner: Any, worker: Any = None) -> None:
        self.runner = runner
        self.model = runner.model
        self._mapping = worker if getattr(worker, "hot_token_id", None) is not None else self.model
        layer = self.model.model.layers[0]
        self._qkv, self._mlp = layer.self_attn.qkv_proj, layer.mlp
        self.rank, self.size = int(self._qkv.tp_rank), int(self._qkv.tp_size)
        self.device = next(self.model.parameters()).device

    def state(self) -> dict[str, Tensor]:
        """This rank's part of every checkpoint tensor, as views of what serves; d2t and t2d are rebuilt."""
        layer, inner = self.model.model.layers[0], self.model.model
        qkv = self._qkv
        query, key = qkv.num_heads * qkv.head_size, qkv.num_kv_heads * qkv.head_size
        fused, half = layer.mlp.gate_up_proj.weight, layer.mlp.gate_up_proj.weight.shape[0] // 2
        found = {
            "fc.weight": inner.fc.weight,
            ATTENTION + "q_proj.weight": qkv.weight[:query],
            ATTENTION + "k_proj.weight": qkv.weight[query : query + key],
            ATTENTION + "v_proj.weight": qkv.weight[query + key : query + 2 * key],
            ATTENTION + "o_proj.weight": layer.self_attn.o_proj.weight,
            MLP + "gate_proj.weight": fused[:half],
            MLP + "up_proj.weight": fused[half:],
            MLP + "down_proj.weight": layer.mlp.down_proj.weight,
            "midlayer.input_layernorm.weight": layer.input_layernorm.weight,
            "midlayer.hidden_norm.weight": layer.hidden_norm.weight,
            "midlayer.post_attention_layernorm.weight": layer.post_attention_layernorm.weight,
            "norm.weight": inner.norm.weight,
            "lm_head.weight": self.model.lm_head.weight[: self._num_head_rows()],
        }
        return {name: tensor.detach() for name, tensor in found.items()} | self._vocabulary()

    def shard(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What this rank must hold of a checkpoint."""
        if self.size == 1:
            return dict(state)
        found = {name: self._shard_of(name, tensor) for name, tensor in state.items()}
        return found

    def check(self, state: dict[str, Tensor]) -> None:
        """Raises CheckpointError where the checkpoint is not of the lineage that runs: SGLang would not notice."""
        running, offered = self.state(), self.shard(state)
        if running.keys() != offered.keys():
            raise CheckpointError(f"tensors differ from the running draft's: {sorted(running.keys() ^ offered.keys())}")
        for name, tensor in offered.items():
            if running[name].shape != tensor.shape:
                expected = list(running[name].shape)
                raise CheckpointError(f"{name} has shape {list(tensor.shape)}, the running draft has {expected}")
        for name in VOCABULARY:
            if self._mapping.hot_token_id is None and not torch.equal(running[name].cpu(), offered[name]):
                raise CheckpointError(
                    f"{name} differs from the running draft's, which has none: the server must be started anew with it"
                )

    def staged(self, state: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
        """The payload, on the draft's device; ``t2d`` follows from ``d2t``."""
        return [(name, tensor.to(self.device)) for name, tensor in state.items() if name != "t2d"]

    def load(self, payload: list[tuple[str, Tensor]]) -> None:
        """Copy a payload in place, the weights as SGLang's own update does; call between two steps.

        What running requests had drafted for the next step is read by the new vocabulary, where that is another one:
        these drafts are wrong then, and verification turns them down.
        """
        updater = self.runner.weight_updater
        updater.begin_weight_update()
        self.model.load_weights([(name, tensor) for name, tensor in payload if name not in VOCABULARY])
        updater.end_weight_update(run_post_load=False)
        if self._mapping.hot_token_id is not None:
            offsets = dict(payload)["d2t"]
            ids = offsets + torch.arange(len(offsets), device=offsets.device)
            self._mapping.hot_token_id.copy_(ids)  # in place: graphs that were captured read there

    def holds(self, state: dict[str, Tensor]) -> bool:
        """Whether memory equals this rank's part of a checkpoint, element by element, in the precision that serves."""
        running = self.state()
        return all(
            torch.equal(running[name], tensor.to(running[name].device, running[name].dtype))
            for name, tensor in self.shard(state).items()
        )

    def digest(self, state: dict[str, Tensor], sha256: str) -> str:
        """sha256 of what is in memory, comparable with the checkpoint file's.

        Where memory has the file's precision it is computed from memory alone. Where it has not, or a rank holds only a
        part, memory is compared with ``state`` element by element, and the file's digest stands for "equal".
        """
        running = {name: tensor.cpu() for name, tensor in self.state().items()}
        is_same_precision = all(running[name].dtype == tensor.dtype for name, tensor in state.items())
        if self.size == 1 and is_same_precision:
            return checkpoint.state_digest(running)
        return sha256 if self.holds(state) else checkpoint.state_digest(running)

    def _num_head_rows(self) -> int:
        rows, total = self.model.lm_head.weight.shape[0], int(self.model.config.draft_vocab_size)
        return int(max(0, min(rows, total - self.rank * rows)))

    def _vocabulary(self) -> dict[str, Tensor]:
        config = self.model.config
        size = int(config.draft_vocab_size)
        hot = self._mapping.hot_token_id
        ids = torch.arange(size) if hot is None else hot.detach().cpu().to(torch.int64)
        t2d = torch.zeros(int(config.vocab_size), dtype=torch.bool)
        t2d[ids] = True
        return {"d2t": ids - torch.arange(size), "t2d": t2d}

    def _shard_of(self, name: str, tensor: Tensor) -> Tensor:
        qkv = self._qkv
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            rows = qkv.num_kv_heads * qkv.head_size
            start = (
                self.rank // (self.size * rows // tensor.shape[0]) if self.size * rows > tensor.shape[0] else self.rank
            )
            return tensor[start * rows : (start + 1) * rows]
        if name.endswith(("q_proj.weight", "gate_proj.weight", "up_proj.weight")):
            return tensor.chunk(self.size, 0)[self.rank]
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            return tensor.chunk(self.size, 1)[self.rank]
        if name == "lm_head.weight":
            rows = self.model.lm_head.weight.shape[0]
            return tensor[self.rank * rows : self.rank * rows + self._num_head_rows()]
        return tensor


def target_fingerprint(model: Any, rest_seconds: float = 0.0) -> str:
    """sha256 over the target's parameters on this rank: all bytes up to 256 MiB, above that 4,096 values per tensor.

    The sample is evenly spread; it costs a gather per tensor on the device and a few MiB of copies. After each tensor
    it rests, so that requests being served meet many short disturbances instead of a long one.
    """
    parameters = list(model.named_parameters())
    is_full = sum(tensor.nbytes for _, tensor in parameters) <= FULL_FINGERPRINT_BYTES
    digest = hashlib.sha256()
    for name, tensor in parameters:
        flat = tensor.detach().reshape(-1)
        if not is_full and flat.numel() > SAMPLES_PER_TENSOR:
            flat = flat[sampled_places(flat.numel()).to(flat.device)]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(flat.cpu().contiguous().view(torch.uint8).numpy())
        time.sleep(rest_seconds)
    return digest.hexdigest()


def sampled_places(num: int) -> Tensor:
    """SAMPLES_PER_TENSOR indices, evenly spread from 0 to num - 1; in integers, as floats miss places above 2^24."""
    return torch.arange(SAMPLES_PER_TENSOR) * (num - 1) // (SAMPLES_PER_TENSOR - 1)


class TargetWatch:
    """The target's fingerprint on this rank, read again in the background after a swap: no swap waits for it.

    ``sha256`` is "" after a look that failed: what was seen before says nothing about now.
    """

    def __init__(self, model: Any) -> None:
        self.sha256 = target_fingerprint(model)
        self._model = model
        self._num_asked = 0
        self._num_answered = 0
        self._is_due = threading.Event()
        threading.Thread(target=self._watch, name="target", daemon=True).start()

    @property
    def is_settled(self) -> bool:
        """Whether ``sha256`` was read after the last ``look``."""
        return self._num_answered == self._num_asked

    def look(self) -> None:
        """Read it soon; looks that are asked for meanwhile are one look afterwards. From one thread only."""
        self._num_asked += 1
        self._is_due.set()

    def _watch(self) -> None:
        while True:
            self._is_due.wait()
            self._is_due.clear()
            answered = self._num_asked
            try:
                self.sha256 = target_fingerprint(self._model, REST_SECONDS)
            except Exception:  # our reading never ends a server; the next look may succeed
                log.exception("the target's weights cannot be read")
                self.sha256 = ""
            self._num_answered = answered
