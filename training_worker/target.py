"""What the trainer needs of the target: embedding and head always, the whole model only to recompute lost states."""

from __future__ import annotations

import enum
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from aurora_kernels.dtypes import fastest_dtype
from safetensors import safe_open
from torch import Tensor

from training_worker.batches import Example, Teacher
from training_worker.config import TraceSource
from training_worker.device import CPU

EMBED = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
TEACHER_TOKENS = 16  # kept per position
POSITIONS = 256  # at once: their logits over a whole vocabulary are the largest thing in the trainer's memory


class Use(enum.Flag):
    """What a trace is loaded for: each takes time that the others don't need."""

    REPLAY = enum.auto()
    GENERATED = enum.auto()  # to learn from the positions that an engine drafts from,
    PROMPT = enum.auto()  # and from the prompt's


EVERYTHING = Use.REPLAY | Use.GENERATED | Use.PROMPT


class Target:
    """A Hugging Face directory. Raises FileNotFoundError where it is gone, KeyError for a missing embedding.

    ``device`` holds embedding, head and model; drafts of this target are trained and evaluated there.
    """

    def __init__(self, folder: Path, device: torch.device = CPU) -> None:
        self.folder = folder
        self.device = device
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.embed_VH = self._tensor(EMBED)
        self._embeds: dict[torch.dtype, Tensor] = {}
        self.head_VH = self.embed_VH if self.config.get("tie_word_embeddings") else self._tensor(HEAD)

    def recompute(self, source: TraceSource, aux_layer_ids: tuple[int, ...], use: Use = EVERYTHING) -> Example:
        """A trace whose hidden states are gone."""
        return self.example(source, *self.states(source, aux_layer_ids), use)

    def states(self, source: TraceSource, aux_layer_ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """(features, final) of a trace by one prefill, rounded to float16 on the CPU as a segment would hold them."""
        ids = torch.tensor([source.tokens[:-1]], device=self.device)
        with torch.inference_mode():
            answer = self._model.model(ids, output_hidden_states=True)
        layers = answer.hidden_states  # [0] is the embedding, [i + 1] the output of layer i; the last one is normed
        features = torch.cat([layers[i + 1][0] for i in aux_layer_ids], -1).half()
        final = answer.last_hidden_state[0].half()
        return features[source.first_state :].to("cpu", copy=True), final[source.first_state :].to("cpu", copy=True)

    def example(self, source: TraceSource, features: Tensor, final: Tensor, use: Use = EVERYTHING) -> Example:
        """A trace with its states and what the target thought at the positions that its use asks for."""
        first = min(source.first_base, len(final))
        taught = 0 if Use.PROMPT in use else first if Use.GENERATED in use else len(final)
        num = min(TEACHER_TOKENS, len(self.head_VH)) if use & (Use.PROMPT | Use.GENERATED) else 0
        ids, probs = torch.zeros(len(final), num, dtype=torch.int32), torch.zeros(len(final), num)
        for start in range(taught, len(final), POSITIONS):
            ids[start : start + POSITIONS], probs[start : start + POSITIONS] = self._likely(
                final[start : start + POSITIONS]
            )
        emitted = torch.ones(len(final))
        if source.temperature > 0 and Use.REPLAY in use:
            emitted[first:] = self._emitted(source, first, final[first:])  # in float32: it is compared with
        return Example(source, features, Teacher(ids, probs), emitted)

    @torch.inference_mode()
    def _likely(self, final: Tensor) -> tuple[Tensor, Tensor]:
        """(ids, probabilities) [n, k] of the most likely tokens after these positions [n, Ht], on the CPU."""
        logits = torch.nn.functional.linear(final.to(self.device, self._head.dtype), self._head)
        best = logits.topk(min(TEACHER_TOKENS, logits.shape[-1]), -1)
        return best.indices.int().cpu(), torch.softmax(best.values.float(), -1).cpu()

    @torch.inference_mode()
    def _emitted(self, source: TraceSource, first: int, final: Tensor) -> Tensor:
        """Probabilities [n] of the tokens after the positions from ``first`` on, whose states [n, Ht] are given."""
        emitted = torch.tensor(source.tokens[source.first_state + 1 + first :], device=self.device)
        logits = torch.nn.functional.linear(final.to(self.device).float(), self.head_VH) / source.temperature
        return torch.softmax(logits, -1).gather(-1, emitted[:, None])[:, 0].cpu()

    def embed_in(self, dtype: torch.dtype) -> Tensor:
        """The embedding [V, H] in another format; one copy for all who ask, which a tied head shares."""
        if dtype not in self._embeds:
            self._embeds[dtype] = self.embed_VH.to(dtype)
        return self._embeds[dtype]

    @cached_property
    def _head(self) -> Tensor:
        dtype = fastest_dtype(self.device)
        return self.embed_in(dtype) if self.head_VH is self.embed_VH else self.head_VH.to(dtype)

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForCausalLM  # slow to import, and seldom needed

        # On a GPU in the checkpoint's own format, as servers run it: half the memory, and their numbers.
        dtype = torch.float32 if self.device.type == "cpu" else "auto"
        model: Any = AutoModelForCausalLM.from_pretrained(self.folder, dtype=dtype)
        return model.to(self.device).eval()

    def _tensor(self, name: str) -> Tensor:
        index = self.folder / "model.safetensors.index.json"
        file = "model.safetensors"
        if index.exists():
            file = json.loads(index.read_text(encoding="utf-8"))["weight_map"][name]
        with safe_open(self.folder / file, framework="pt") as tensors:
            found: Tensor = tensors.get_tensor(name).float().clone()  # not mapped: the file may be replaced
        return found.to(self.device)
