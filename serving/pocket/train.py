"""Train the demo target on the CPU: `python -m serving.pocket.train --out DIR --minutes N`.

The run can be killed at any time: it resumes from `DIR/checkpoint.pt`, and the rate decays to zero over the last part
of the given minutes. With `--init PACKAGE` a new run starts from the tokenizer and weights of a packaged target instead
of random ones.
"""

import argparse
import json
import random
import shutil
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aurora_kernels.dtypes import fastest_dtype
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from serving.pocket.corpus import Rows, tokenizer_texts
from serving.pocket.expand import TOKENIZER_FILES, WEIGHTS
from serving.pocket.model import Target, TargetShape
from serving.pocket.optimiser import make_optimisers, rate_factor
from serving.pocket.quantise import unpack
from serving.pocket.tokenizer import save_tokenizer, train_tokenizer

MIX = {"arithmetic": 0.36, "sql": 0.32, "json_tools": 0.32}


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    out: Path
    minutes: float
    init: Path | None = None  # package whose tokenizer and weights a new run starts from
    row_tokens: int = 385  # 384 predictions per row
    rows_per_step: int = 10
    save_seconds: float = 120.0
    heldout_seconds: float = 240.0
    seed: int = 0


@dataclass
class Progress:
    """Where a run is; saved with the weights, so that a resumed run reads the rows that come next."""

    step: int = 0
    seconds: float = 0.0
    rows_read: Counter[str] | None = None

    def next_rows(self, config: TrainConfig) -> list[tuple[str, int]]:
        """The (domain, row number) pairs of this step, drawn from MIX with the step as seed."""
        rng = random.Random(f"{config.seed}:{self.step}")
        assert self.rows_read is not None
        chosen = []
        for domain in rng.choices(list(MIX), list(MIX.values()), k=config.rows_per_step):
            chosen.append((domain, self.rows_read[domain]))
            self.rows_read[domain] += 1
        return chosen


class Run:
    """A training run with its files: tokenizer, checkpoint, log."""

    def __init__(self, config: TrainConfig) -> None:
        config.out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.config = config
        self.tokenizer = prepare_tokenizer(config)
        self.rows = Rows(self.tokenizer, "train", config.row_tokens)
        self.heldout = Rows(self.tokenizer, "heldout", config.row_tokens)
        self.target = Target(TargetShape())
        if config.init:
            self.target.load_state_dict(unpack(load_file(config.init / WEIGHTS)))
        self.optimisers = make_optimisers(self.target)
        self.dtype = fastest_dtype(torch.device("cpu"))
        self.progress = Progress(rows_read=Counter())
        if self.checkpoint.exists():
            self._load()

    @property
    def checkpoint(self) -> Path:
        return self.config.out / "checkpoint.pt"

    def step(self) -> None:
        """Read rows, take one gradient, update."""
        batch = self.progress.next_rows(self.config)
        ids = torch.stack([as_ids(self.rows.row(domain, number)) for domain, number in batch])
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            loss = self.target.loss(ids)
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
                self.log({"heldout": heldout_losses(self.target, self.heldout, 4)})
        self.save()
        self.log({"heldout": heldout_losses(self.target, self.heldout, 24)})

    def log(self, facts: dict[str, Any]) -> None:
        """Append one JSON line with the place in the run to `log.jsonl`."""
        tokens = self.progress.step * self.config.rows_per_step * (self.config.row_tokens - 1)
        line = {"step": self.progress.step, "seconds": round(self.progress.seconds), "tokens": tokens, **facts}
        with (self.config.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write the checkpoint beside its place and rename it, so that a kill never leaves half of one."""
        state = {
            "target": self.target.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "progress": asdict(self.progress),
            "mix": MIX,
        }
        unfinished = self.checkpoint.with_suffix(".unfinished")
        torch.save(state, unfinished)
        unfinished.rename(self.checkpoint)

    def _load(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.target.load_state_dict(state["target"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        progress = state["progress"]
        self.progress = Progress(progress["step"], progress["seconds"], Counter(progress["rows_read"]))


def as_ids(row: Any) -> Tensor:
    """One uint16 row as int64 [T]."""
    return torch.from_numpy(np.asarray(row, dtype=np.int64))


def prepare_tokenizer(config: TrainConfig) -> Tokenizer:
    """Load the run's tokenizer, or train and save it."""
    path = config.out / "tokenizer.json"
    if config.init and not path.exists():
        for name in TOKENIZER_FILES:
            shutil.copyfile(config.init / name, config.out / name)
    if not path.exists():
        save_tokenizer(train_tokenizer(tokenizer_texts()), config.out, TargetShape().max_positions)
    return Tokenizer.from_file(str(path))


@torch.no_grad()
def heldout_losses(target: Target, rows: Rows, num_rows: int) -> dict[str, float]:
    """Held-out cross-entropy in nats per token for each domain, over `num_rows` rows, in fp32."""
    losses = {}
    for domain in MIX:
        ids = torch.stack([as_ids(rows.row(domain, number)) for number in range(num_rows)])
        parts = [target.loss(part).item() for part in ids.split(4)]  # type: ignore[no-untyped-call]
        losses[domain] = round(sum(parts) / len(parts), 4)
    return losses


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--init", type=Path, help="packaged target to start from")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    Run(TrainConfig(given.out, given.minutes, given.init, seed=given.seed)).run()


if __name__ == "__main__":
    main()
