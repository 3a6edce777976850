"""A draft of the pocket target that has learnt a little: one whose tokens pass, several in a step."""

from __future__ import annotations

from pathlib import Path

from speculators import checkpoint
from speculators.draft_config import DraftConfig
from tests.bench.bench_learning import kept_traces, steps
from tests.sglang.server import LOOKAHEAD
from training_worker import vocabulary
from training_worker.target import Target
from training_worker.trainer import Trainer

DOMAINS = ("sql", "arithmetic", "json_tools")


def trained_draft(target_dir: Path, folder: Path, num_traces: int = 32, train_seconds: float = 30.0) -> Path:
    """A checkpoint of a draft that has learnt for so long from what the target answers, so often in each domain."""
    target = Target(target_dir)
    config = DraftConfig.for_target(target.config)
    trainer = Trainer(target, config, LOOKAHEAD, seed=0)
    trainer.start_anew(vocabulary.choose(target_dir, target.config, config.draft_vocab_size))
    cache = folder.parent / "traces"
    examples = [each for name in DOMAINS for each in kept_traces(cache, target, "pocket", name, num_traces, 0.0)]
    for seconds in steps(trainer, examples):
        if seconds >= train_seconds:
            break
    checkpoint.save(folder, config, trainer.published().state_dict())
    return folder
