"""Train the pocket target on the CPU: `python -m serving.pocket.train --out DIR --minutes N`.

The run can be killed at any time: it resumes from `DIR/checkpoint.pt` with the examples that come next. The rate decays
to zero over the last part of the given minutes. `serving.pocket.quantise --run DIR` then makes the package.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from aurora_kernels.dtypes import fastest_dtype
from tokenizers import Tokenizer
from torch import Tensor

from serving.pocket.corpus import DOMAINS, Example, example, tokenizer_texts
from serving.pocket.model import Target, TargetShape
from serving.pocket.optimiser import make_optimisers, rate_factor
from serving.pocket.tokenizer import EOS_ID, save_tokenizer, train_tokenizer

QUESTION_WEIGHT = 0.1  # of a question's tokens in the loss: nobody can foresee the names and numbers in them


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    out: Path
    minutes: float
    max_tokens: int = 256  # of an example; the rest of a longer one is cut off
    examples_per_step: int = 16
    save_seconds: float = 120.0
    heldout_seconds: float = 120.0
    seed: int = 0


@dataclass
class Progress:
    """Where a run is; saved with the weights, so that a resumed run reads the examples that come next."""

    step: int = 0
    seconds: float = 0.0


class Run:
    """A training run with its files: tokenizer, checkpoint, log."""

    def __init__(self, config: TrainConfig) -> None:
        config.out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.config = config
        self.tokenizer = prepare_tokenizer(config.out)
        self.target = Target(TargetShape())
        self.optimisers = make_optimisers(self.target)
        self.dtype = fastest_dtype(torch.device("cpu"))
        self.progress = Progress()
        if self.checkpoint.exists():
            self._load()

    @property
    def checkpoint(self) -> Path:
        return self.config.out / "checkpoint.pt"

    def step(self) -> None:
        """Read examples, take one gradient, update."""
        ids, weights = as_batch(self.next_examples(), QUESTION_WEIGHT, self.config.max_tokens)
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            loss = self.target.loss(ids, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        factor = rate_factor(self.progress.step, self.progress.seconds / (self.config.minutes * 60))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimiser.step()
            optimiser.zero_grad()
        self.progress.step += 1
        if self.progress.step % 10 == 0:
            self.log({"loss": round(loss.item(), 4), "rate": round(factor, 3)})

    def next_examples(self) -> list[Example]:
        """The examples of this step, from the domains in turn."""
        first = self.progress.step * self.config.examples_per_step
        turns = (divmod(place, len(DOMAINS)) for place in range(first, first + self.config.examples_per_step))
        return [example(self.tokenizer, DOMAINS[domain], "train", number) for number, domain in turns]

    def run(self) -> None:
        """Step until the minutes are used up; save and measure on the way."""
        saved = measured = self.progress.seconds
        while self.progress.seconds < self.config.minutes * 60:
            started = time.monotonic()
            self.step()
            self.progress.seconds += time.monotonic() - started
            if self.progress.seconds - saved > self.config.save_seconds:
                saved = self.progress.seconds
                self.save()
            if self.progress.seconds - measured > self.config.heldout_seconds:
                measured = self.progress.seconds
                self.log({"heldout": self.heldout_losses(16)})
        self.save()
        self.log({"heldout": self.heldout_losses(48)})

    @torch.no_grad()
    def heldout_losses(self, num_examples: int) -> dict[str, float]:
        """Held-out cross-entropy in nats per token of the answers of each domain, in fp32."""
        losses = {}
        for domain in DOMAINS:
            examples = [example(self.tokenizer, domain, "heldout", number) for number in range(num_examples)]
            ids, weights = as_batch(examples, 0.0, self.config.max_tokens)
            losses[domain.name] = round(self.target.loss(ids, weights).item(), 4)
        return losses

    def log(self, facts: dict[str, Any]) -> None:
        """Append one JSON line with the place in the run to `log.jsonl`."""
        examples = self.progress.step * self.config.examples_per_step
        line = {"step": self.progress.step, "seconds": round(self.progress.seconds), "examples": examples, **facts}
        with (self.config.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write the checkpoint beside its place and rename it, so that a kill never leaves half of one."""
        state = {
            "target": self.target.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "progress": asdict(self.progress),
        }
        unfinished = self.checkpoint.with_suffix(".unfinished")
        torch.save(state, unfinished)
        unfinished.rename(self.checkpoint)

    def _load(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.target.load_state_dict(state["target"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.progress = Progress(**state["progress"])


def as_batch(examples: Sequence[Example], question_weight: float, max_tokens: int) -> tuple[Tensor, Tensor]:
    """Ids, int64 [B, T], and their weights in the loss, float32 [B, T]: 1 in answers, 0 in the padding."""
    longest = min(max_tokens, max(len(each.question) + len(each.answer) for each in examples))
    ids = torch.full((len(examples), longest), EOS_ID)
    weights = torch.zeros(len(examples), longest)
    for row, each in enumerate(examples):
        whole = torch.tensor(each.question + each.answer)[:longest]
        ids[row, : len(whole)] = whole
        weights[row, : len(whole)] = 1.0
        weights[row, : len(each.question)] = question_weight
    return ids, weights


def prepare_tokenizer(folder: Path) -> Tokenizer:
    """Load the run's tokenizer, or train and save it."""
    path = folder / "tokenizer.json"
    if not path.exists():
        save_tokenizer(train_tokenizer(tokenizer_texts()), folder, TargetShape().max_positions)
    return Tokenizer.from_file(str(path))


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    Run(TrainConfig(given.out, given.minutes, seed=given.seed)).run()


if __name__ == "__main__":
    main()
