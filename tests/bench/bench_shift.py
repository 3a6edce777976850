"""How a draft follows a shift of the traffic, apart from everything else: slices as the trainer makes them, replay.

    python -m tests.bench.bench_shift --before arithmetic sql --after json_tools

Each slice gets a few fresh traces of its phase and all of those before it, which are no more than the console gives it.
Prints one JSON line per slice, from the last one before the shift on: accept length by replay of held-out traces of
every domain. Slices are timed in CPU seconds of one thread, so that a busy neighbour counts little.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from serving.traffic.domains.registry import POCKET
from speculators.draft_config import DraftConfig
from tests.bench.bench_learning import accept_length, kept_traces
from tests.bench.models import prepared
from training_worker.batches import Example, training_batches
from training_worker.slices import one_pass
from training_worker.target import Target
from training_worker.trainer import Trainer

LOOKAHEAD = 4
TRACES = 130  # of each domain
HELD_OUT = 16
FRESH = 12  # per slice


class Learner:
    """A trainer and the traces that it has seen."""

    def __init__(self, target: Target) -> None:
        self.trainer = Trainer(target, DraftConfig.for_target(target.config), LOOKAHEAD, seed=0)
        self._seen: list[Example] = []

    def learn(self, fresh: list[Example], seconds: float, seed: int) -> None:
        """One slice of so many CPU seconds."""
        spent = 0.0
        while spent < seconds:
            rng = random.Random(f"{seed}:{self.trainer.step_count}")
            for batch in training_batches(one_pass(fresh, self._seen, rng), self.trainer.recipe.max_positions, rng):
                started = time.thread_time()
                self.trainer.step(batch)
                spent += time.thread_time() - started
                if spent >= seconds:
                    break
        self._seen += fresh


def slices(pool: dict[str, list[Example]], domains: list[str], num: int) -> Iterator[list[Example]]:
    """Fresh traces of ``num`` slices, of each domain in turn, until there are no more."""
    queues = {domain: iter(pool[domain]) for domain in domains}
    for _ in range(num):
        turns = (next(queues[domains[i % len(domains)]], None) for i in range(FRESH))
        yield [example for example in turns if example is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", nargs="+", default=["arithmetic", "sql"], choices=list(POCKET))
    parser.add_argument("--after", nargs="+", default=["json_tools"], choices=list(POCKET))
    parser.add_argument("--slices", type=int, nargs=2, default=[10, 8], metavar=("BEFORE", "AFTER"))
    parser.add_argument("--seconds", type=float, default=4.0, help="of one slice")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "aurora-bench-learning")
    given = parser.parse_args()
    torch.set_num_threads(1)
    target = Target(prepared("pocket"))
    kept = {d: kept_traces(given.cache, target, "pocket", d, TRACES, 0.0) for d in [*given.before, *given.after]}
    held_out, pool = {d: e[:HELD_OUT] for d, e in kept.items()}, {d: e[HELD_OUT:] for d, e in kept.items()}
    learner = Learner(target)
    for seed, fresh in enumerate(slices(pool, given.before, given.slices[0])):
        learner.learn(fresh, given.seconds, seed)
    for after, fresh in enumerate([[], *slices(pool, given.after, given.slices[1])]):
        if fresh:
            learner.learn(fresh, given.seconds, given.slices[0] + after)
        scores = {d: accept_length(learner.trainer, target, held_out[d], LOOKAHEAD) for d in kept}
        print(json.dumps({"slices_after_shift": after, "accept_length": scores}), flush=True)


if __name__ == "__main__":
    main()
