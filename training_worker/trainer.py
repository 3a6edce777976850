"""The draft, its optimisers and one optimiser step; everything that a killed slice must resume exactly."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from aurora_kernels.dtypes import fastest_dtype
from torch import Tensor

from speculators.candidates import Candidates
from speculators.checkpoint import sync_directory
from speculators.draft_config import VOCABULARY_TENSORS, DraftConfig
from speculators.eagle3 import Eagle3Draft
from speculators.losses import head_loss, soft_targets
from speculators.optimiser import Muon
from training_worker import vocabulary
from training_worker.batches import Batch, Example, make_batch, padded, sample_bases, sent
from training_worker.config import TraceSource
from training_worker.device import CPU
from training_worker.target import Target
from training_worker.unroll import unroll

REAL_TEXT_POSITIONS = 2048  # per step: of a real LLM's traces, a few hundred positions long, 512 hold one or two
DRAWN_TOKENS = 512  # on a CPU: a step takes seven tenths of the time
GPU_POSITIONS = 4096  # per step: 512 take a GPU three quarters of the time, most of it to be told what to do


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a draft is trained; chosen by tests/bench/bench_learning.py."""

    muon_rate: float = 0.07
    adam_rate: float = 6e-3
    warmup_steps: int = 8
    decay_steps: int = 100  # both rates fall as (1 + step / decay_steps) ** -0.5 ...
    least_rate: float = 0.25  # ... to this share, at which a shift of the traffic is still followed at once
    token_share: float = 0.3  # of greedy traces; sampled ones learn from the teacher alone
    acceptance_share: float = 0.8  # of the loss: minus the logarithm of acceptance; the rest is cross-entropy
    depth_decay: float = 0.8  # weight of each depth relative to the one before
    prompt_share: float = 0.0  # of the prompt's positions that are learnt from, besides all generated ones
    chain_share: float = 0.5  # of positions whose chain is unrolled
    drawn_tokens: int = 0  # that stand for all that no teacher of a step thinks of; 0 = the whole vocabulary, as it is
    average_share: float = 0.125  # of all steps: so many of the last ones are what published weights are averaged over,
    most_averaged: int = 100  # but no more than these; 0 = the last ones alone
    max_positions: int = 512  # per optimiser step, padding included,
    positions_at_once: int = 1024  # and of these whose activations are in memory together: gradients are summed
    # of matrix products and kept activations; parameters stay float32
    dtype: torch.dtype = field(default_factory=lambda: fastest_dtype(CPU))

    @classmethod
    def fitting(cls, device: torch.device, config: DraftConfig) -> Self:
        """The defaults, which were chosen on a CPU and a small target, or what others want (training_worker/LOG.md)."""
        if device.type != "cpu":
            return cls(
                dtype=fastest_dtype(device),
                max_positions=GPU_POSITIONS,
                positions_at_once=GPU_POSITIONS,
                prompt_share=1.0,
            )
        if config.draft_vocab_size == config.vocab_size:
            return cls()
        return cls(max_positions=REAL_TEXT_POSITIONS, prompt_share=1.0, drawn_tokens=DRAWN_TOKENS)

    def rate_at(self, step: int) -> float:
        """Share of both rates for the step after ``step`` finished ones."""
        decay: float = (1 + step / self.decay_steps) ** -0.5
        return min(1.0, (step + 1) / self.warmup_steps) * max(self.least_rate, decay)


class Trainer:
    """One run: a draft that keeps learning on the target's device; its random choices are functions of (seed, step)."""

    def __init__(
        self, target: Target, config: DraftConfig, lookahead: int, seed: int, recipe: Recipe | None = None
    ) -> None:
        self.recipe = recipe or Recipe.fitting(target.device, config)
        self.target = target
        self.device = target.device
        self.config = config
        self.lookahead = lookahead
        self.seed = seed
        self.draft = Eagle3Draft(config, seed).to(self.device)
        self.step_count = 0
        self.num_tokens = 0
        self._loss = torch.tensor(math.nan)
        self._embed = target.embed_in(self.recipe.dtype)
        self._draft_ids = self.draft.target_ids
        self._is_full_vocabulary = config.draft_vocab_size == config.vocab_size
        self._optimisers = self._make_optimisers()
        self.averaged = self._copy()  # what is evaluated and published
        self.token_counts: Tensor | None = None  # float64 [vocab_size], on the CPU: of the traffic of late

    def start_anew(self, target_ids_V: Tensor, token_counts: Tensor | None = None) -> None:
        """Begin with random weights and a vocabulary: rising ids of the target, ``draft_vocab_size`` of them.

        ``token_counts`` [vocab_size]: what they were chosen by, where that is known.
        """
        self.draft.take_vocabulary(target_ids_V.to(self.device))
        self._begin(token_counts)

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Begin with these weights and this vocabulary instead of random ones and the first ids."""
        self.draft.load_state_dict(state)
        self._begin(None)

    def _begin(self, token_counts: Tensor | None) -> None:
        self._draft_ids = self.draft.target_ids
        self.averaged = self._copy()
        self.token_counts = token_counts

    @torch.no_grad()
    def follow(self, sources: Iterable[TraceSource]) -> int:
        """Count what these traces say, and propose what the traffic says most; how many tokens were exchanged.

        A token that comes begins as what those that go have in common, which is to be unlikely.
        """
        if self._is_full_vocabulary:
            return 0
        if self.token_counts is None:  # a draft that somebody else has made
            self.token_counts = vocabulary.prior_of(self._draft_ids, self.target.folder, self.target.config)
        for source in sources:
            vocabulary.count(self.token_counts, source.tokens, source.prompt_len)
        wanted = vocabulary.better(self.token_counts, self._draft_ids.cpu())
        if wanted is None:
            return 0
        wanted, old = wanted.to(self.device), self._draft_ids
        place = torch.searchsorted(old, wanted).clamp_max(len(old) - 1)
        is_new, is_going = (old[place] != wanted)[:, None], ~torch.isin(old, wanted)
        for rows in (self.draft.lm_head.weight, self.averaged["lm_head.weight"]):
            rows.copy_(torch.where(is_new, rows[is_going].mean(0), rows[place]))
        moments = self._optimisers[1].state.get(self.draft.lm_head.weight, {})
        for rows in (moments[name] for name in ("exp_avg", "exp_avg_sq") if name in moments):
            rows.copy_(torch.where(is_new, 0.0, rows[place]))
        self.draft.take_vocabulary(wanted)
        self._draft_ids = wanted
        self.averaged |= {name: getattr(self.draft, name).clone() for name in VOCABULARY_TENSORS}
        return int(is_new.sum())

    def coverage(self, sources: Iterable[TraceSource]) -> float | None:
        """Share of what was generated in these traces that the draft can propose; None where nothing was."""
        tokens = torch.tensor([token for source in sources for token in source.tokens[source.prompt_len :]])
        return float(torch.isin(tokens, self._draft_ids.cpu()).float().mean()) if len(tokens) else None

    def published(self) -> Eagle3Draft:
        """A draft of the averaged weights; the next step moves them."""
        return Eagle3Draft.from_state(self.config, self.averaged)

    @property
    def loss(self) -> float:
        """Of the last step, in nats per position at depth 0; NaN before the first. On a GPU, waits for that step."""
        return float(self._loss)

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.draft.state_dict().items()}

    def step(self, examples: Sequence[Example]) -> None:
        """One optimiser step on a few traces; a GPU is given its work and not waited for."""
        num_rows = max(1, self.recipe.positions_at_once // max(padded(example.num_positions) for example in examples))
        parts = [examples[first : first + num_rows] for first in range(0, len(examples), num_rows)]
        losses = []
        for number, part in enumerate(parts):
            batch = make_batch(part, self.device)
            loss, at_depth_0 = self._losses(batch, number, len(part) / len(examples))
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(at_depth_0)
            self.num_tokens += int(batch.length.sum())
        self._loss = torch.stack(losses).sum()
        factor = self.recipe.rate_at(self.step_count)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimiser.step()
            optimiser.zero_grad()
        self.step_count += 1
        self._average()

    def _losses(self, on_cpu: Batch, number: int, share: float) -> tuple[Tensor, Tensor]:
        """(what is differentiated, what depth 0 adds to it) of a part of a step, a share of its rows; on the device."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step_count * 1009 + number)
        # A share of the positions of depth 0 goes on to the first chain step, and those stay.
        shares = [self.recipe.chain_share, *[1.0] * (self.lookahead - 2)][: max(0, self.lookahead - 1)]
        drawn, chosen = sample_bases(on_cpu, self.recipe.prompt_share, shares, generator)
        bases, is_chosen = [sent(base, self.device) for base in drawn], sent(chosen, self.device)
        batch = on_cpu.to(self.device, self.recipe.dtype)
        is_greedy = (batch.temperature == 0)[:, None].expand_as(batch.tokens)
        probs = soft_targets(batch.teacher_probs.flatten(0, 1), is_greedy.flatten(), self.recipe.token_share)
        ids, probs = self._to_draft(batch.teacher_ids, probs.view_as(batch.teacher_probs))
        candidates = self._candidates(ids, probs, generator)
        rows = torch.arange(len(batch.tokens), device=self.device)[:, None]
        parts: list[tuple[Tensor, ...]] = []
        with torch.autocast(self.device.type, self.recipe.dtype, enabled=self.recipe.dtype != torch.float32):
            for k, depth in enumerate(unroll(self.draft, self._embed, batch, bases)):
                place = (depth.base + k + 1).clamp_max(batch.tokens.shape[1] - 1)
                weight = (batch.has_label(depth.base, k) * is_chosen.gather(1, depth.base)).flatten()
                weight = weight * share * self.recipe.depth_decay**k / weight.sum().clamp_min(1.0)
                hidden = self.draft.norm(depth.out).to(self.recipe.dtype)
                part = (hidden, ids[rows, place], probs[rows, place])
                parts.append((*(x.flatten(0, 1) for x in part), weight))
            # All depths at once: the gradient of the head is the largest tensor of a step, and is made once.
            hidden, chosen_ids, chosen_probs, weight = (torch.cat(x) for x in zip(*parts, strict=True))
            head, weighted = self.draft.lm_head.weight, (chosen_ids, chosen_probs, weight)
            losses = head_loss(hidden, head, *weighted, self.recipe.acceptance_share, candidates)
        return losses.sum(), losses[: len(parts[0][3])].sum().detach()

    def _candidates(self, ids: Tensor, probs: Tensor, generator: torch.Generator) -> Candidates | None:
        if not self.recipe.drawn_tokens:
            return None
        return Candidates.drawn(ids, probs, self.config.draft_vocab_size, self.recipe.drawn_tokens, generator)

    @torch.no_grad()
    def _average(self) -> None:
        """Move the published weights towards the trained ones: over few steps on day 0, over more as rates fall."""
        num_averaged = min(self.recipe.most_averaged, self.recipe.average_share * self.step_count)
        decay = 1 - 1 / max(1.0, num_averaged)
        names = [name for name, tensor in self.averaged.items() if tensor.is_floating_point()]
        trained = self.draft.state_dict()
        torch._foreach_lerp_([self.averaged[n] for n in names], [trained[n] for n in names], 1 - decay)

    def _to_draft(self, ids: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Target ids as draft ids; a token that the draft cannot say has no weight."""
        if self._is_full_vocabulary:
            return ids, probs
        place = torch.searchsorted(self._draft_ids, ids).clamp_max(len(self._draft_ids) - 1)
        return place, probs * (self._draft_ids[place] == ids)

    def _make_optimisers(self) -> tuple[torch.optim.Optimizer, ...]:
        inner = [p for n, p in self.draft.named_parameters() if p.ndim == 2 and n != "lm_head.weight"]
        chosen = {id(p) for p in inner}
        others = [p for p in self.draft.parameters() if id(p) not in chosen]
        optimisers = (
            Muon(inner, self.recipe.muon_rate),
            torch.optim.AdamW(others, lr=self.recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["base_lr"] = group["lr"]
        return optimisers

    def save(self, path: Path) -> None:
        """Write everything durably, for any device to load; a kill leaves the old file or the new one."""
        state = {
            "config": self.config.to_hf(),
            "draft": self.draft.state_dict(),
            "averaged": self.averaged,
            "token_counts": self.token_counts,
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "step_count": self.step_count,
            "num_tokens": self.num_tokens,
            "loss": self.loss,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as file:  # gigabytes for a wide target: no copy of them is made on the way
            torch.save(_on(CPU, state), file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_directory(path.parent)

    @staticmethod
    def config_of(path: Path) -> DraftConfig | None:
        """Of the draft whose state ``save`` has written there; None for one of an older Aurora, which did not say."""
        saved = torch.load(path, weights_only=True, mmap=True).get("config")
        return DraftConfig.from_hf(saved) if saved else None

    def load(self, path: Path) -> None:
        """Take up what ``save`` wrote, on whatever device. Raises RuntimeError for a file of another shape of draft."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.draft.load_state_dict(state["draft"])
        self._draft_ids = self.draft.target_ids
        self.averaged = _on(self.device, state["averaged"])
        self.token_counts = state.get("token_counts")  # an older Aurora kept none
        for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step_count, self.num_tokens = state["step_count"], state["num_tokens"]
        self._loss = torch.tensor(state["loss"])


def _on(device: torch.device, value: Any) -> Any:
    """The same structure with its tensors on a device; those that are there already are shared."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _on(device, each) for key, each in value.items()}
    return [_on(device, each) for each in value] if isinstance(value, list) else value
