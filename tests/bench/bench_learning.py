"""How fast a draft learns, apart from everything else: traces of a target, one training thread, replay.

    python -m tests.bench.bench_learning --domains sql json_tools --set muon_rate=0.02,0.03 --seconds 20
    python -m tests.bench.bench_learning --model smollm2 --domains all --traces 240 --seconds 300

"All" mixes the domains that the demo of the model sends.

Prints one JSON line per combination: accept length by replay on held-out traces after 4, 8, ... CPU seconds of
training. CPU seconds of one thread, so that a busy neighbour counts little.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from serving.engine.api import FinishedRequest, Request, SamplingParams
from serving.engine.config import EngineConfig
from serving.engine.engine import Engine
from serving.pocket.report import distinct_3gram_share
from serving.traffic.domains.base import Split
from serving.traffic.domains.registry import POCKET, REAL
from speculators.draft_config import DraftConfig
from tests.bench.models import prepared, prompts
from training_worker import vocabulary
from training_worker.batches import Example, training_batches
from training_worker.config import TraceSource
from training_worker.evaluate import replay
from training_worker.target import Target
from training_worker.trainer import Recipe, Trainer

MAX_TOKENS = 128
ALL = "all"
NUM_DOMAINS = {"pocket": len(POCKET), "smollm2": len(REAL)}


def answers(
    folder: Path, model: str, domain: str, num: int, temperature: float, split: Split = "heldout"
) -> list[FinishedRequest]:
    """What plain decoding writes to ``num`` prompts of a domain, or of all in turn."""
    engine = Engine(folder, EngineConfig(control_share=1.0))
    finished: list[FinishedRequest] = []
    engine.start()
    found = prompts(model, num if domain != ALL else -(-num // NUM_DOMAINS[model]), 77, split)
    chosen = [(name, ids) for name in found for ids in found[name] if domain in (name, ALL)]
    for i, (name, ids) in enumerate(chosen[:num]):
        sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=temperature, seed=i)
        engine.submit(Request(f"{name}{i}", ids, sampling, name, on_finish=finished.append))
    while len(finished) < num:
        time.sleep(0.1)
    engine.stop()
    return finished


def kept_traces(cache: Path, target: Target, model: str, domain: str, num: int, temperature: float) -> list[Example]:
    """What the engine writes down of ``answers``, made once and kept in this folder."""
    path = cache / f"{model}-{domain}-{num}-{temperature}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        finished = answers(target.folder, model, domain, num, temperature)
        torch.save([_example(target, each) for each in finished], path)
    examples: list[Example] = torch.load(path, weights_only=False)  # our own file
    return examples


def _example(target: Target, finished: FinishedRequest) -> Example:
    assert finished.states is not None and finished.final is not None
    source = TraceSource(
        finished.request_id, finished.domain, finished.tokens, finished.prompt_len, finished.temperature, (), "", 0, 0
    )
    return target.example(source, finished.states, finished.final)


def steps(trainer: Trainer, examples: list[Example]) -> Iterator[float]:
    """Train on all examples in random order, again and again; the CPU seconds spent so far, after each step."""
    spent = 0.0
    while True:
        for batch in training_batches(examples, trainer.recipe.max_positions, random.Random(trainer.step_count)):
            started = time.thread_time()
            trainer.step(batch)
            spent += time.thread_time() - started
            yield spent


def learn(
    target: Target, examples: list[Example], held_out: list[Example], recipe: Recipe, lookahead: int, seconds: float
) -> dict[str, Any]:
    """Train on all examples in random order; replay every fifth of the time."""
    config = DraftConfig.for_target(target.config)
    trainer = Trainer(target, config, lookahead, seed=0, recipe=recipe)
    trainer.start_anew(vocabulary.choose(target.folder, target.config, config.draft_vocab_size))
    marks, curve = [seconds * (i + 1) / 5 for i in range(5)], {}
    for spent in steps(trainer, examples):
        if spent >= marks[0]:
            curve[round(marks.pop(0), 1)] = accept_length(trainer, target, held_out, lookahead)
        if not marks:
            break
    return {
        "accept_length": curve,
        "steps": trainer.step_count,
        "tokens_per_cpu_second": round(trainer.num_tokens / spent),
        "loss": round(trainer.loss, 3),
    }


def accept_length(trainer: Trainer, target: Target, held_out: list[Example], lookahead: int) -> float:
    scores = replay(trainer.published(), target, held_out, lookahead)
    steps = sum(score.num_verify_steps for score in scores)
    return round(sum(score.num_accept_tokens for score in scores) / steps, 3)


def variants(settings: list[str]) -> list[dict[str, Any]]:
    """All combinations of ``name=a,b``; ValueError for a name that is no field of Recipe."""
    kinds = {field.name: type(getattr(Recipe(), field.name)) for field in dataclasses.fields(Recipe)}
    axes = []
    for setting in settings:
        name, _, values = setting.partition("=")
        if name not in kinds:
            raise ValueError(f"--set {setting}: no field {name!r}; Recipe has {', '.join(kinds)}")
        axes.append([(name, kinds[name](value)) for value in values.split(",")])
    return [dict(chosen) for chosen in itertools.product(*axes)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(NUM_DOMAINS), default="pocket")
    parser.add_argument("--domains", nargs="+", default=["sql", "json_tools"], choices=[ALL, *POCKET, *REAL])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=A,B", help="fields of Recipe to vary")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--traces", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--lookahead", type=int, default=4)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "aurora-bench-learning")
    given = parser.parse_args()
    torch.set_num_threads(1)
    target = Target(prepared(given.model))
    fitting = Recipe.fitting(target.device, DraftConfig.for_target(target.config))
    for domain in given.domains:
        examples = kept_traces(given.cache, target, given.model, domain, given.traces, given.temperature)
        random.Random(0).shuffle(examples)
        held_out, examples = examples[: len(examples) // 6], examples[len(examples) // 6 :]
        outputs = [e.source.tokens[e.source.prompt_len :] for e in examples]
        for changes in variants(given.set):
            recipe = dataclasses.replace(fitting, **changes)
            facts = learn(target, examples, held_out, recipe, given.lookahead, given.seconds)
            share = round(distinct_3gram_share(outputs), 3)
            print(json.dumps({"domain": domain, **changes, **facts, "distinct_3grams": share}), flush=True)


if __name__ == "__main__":
    main()
