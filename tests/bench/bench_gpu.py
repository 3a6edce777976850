"""How fast a draft is trained on a GPU, and how good it gets there.

    python -m tests.bench.bench_gpu throughput
    python -m tests.bench.bench_gpu learning --target DIR --traffic FILE

``throughput`` trains drafts of the shape of SmolLM2-135M and of Qwen3-8B on random hidden states, teachers and
embeddings: nothing can be learnt from them, the work per token is the same. ``learning`` recomputes the hidden states
of recorded traffic (JSON lines: domain, temperature, held_out, prompt_len, tokens) with the target in DIR, trains from
random weights on all that is not held out, and replays the rest. Its clock counts training alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft
from tests.bench.machine import machine
from training_worker.batches import Example, training_batches
from training_worker.config import TraceSource
from training_worker.device import find_device, name_of
from training_worker.evaluate import TraceScore, replay
from training_worker.target import EMBED, HEAD, Target
from training_worker.trainer import Recipe, Trainer

LOOKAHEAD = 4
LLAMA = {"rope_theta": 100_000.0, "rms_norm_eps": 1e-5, "max_position_embeddings": 8192, "model_type": "llama"}
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": LLAMA
    | {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    | {"num_key_value_heads": 3, "vocab_size": 49152, "draft_vocab_size": 8192, "tie_word_embeddings": True},
    "qwen3-8b": LLAMA
    | {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32}
    | {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "draft_vocab_size": 32000},
}
TRACE_TOKENS = (512, 2048)  # of a synthetic trace; its first quarter is the prompt
WARMUP_STEPS, STEPS = 5, 20
MARKS = (5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0)  # seconds of training after which is measured
TRAINED_SAMPLE = 100  # traces trained on that are replayed too, to tell learning from learning by heart


def say(**facts: Any) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in facts.items()}), flush=True)


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds that ``work`` took, to its end on the device; what it returned)."""
    wait_for(device)
    started = time.perf_counter()
    result = work()
    wait_for(device)
    return time.perf_counter() - started, result


# ---- throughput ----


def synthetic_target(folder: Path, shape: dict[str, Any], device: torch.device) -> Target:
    """A checkpoint directory with a random embedding and head, and nothing between them."""
    size = (shape["vocab_size"], shape["hidden_size"])
    names = (EMBED,) if shape.get("tie_word_embeddings") else (EMBED, HEAD)
    generator = torch.Generator(device).manual_seed(0)
    tensors = {name: torch.randn(size, generator=generator, device=device).mul_(0.02).bfloat16() for name in names}
    (folder / "config.json").write_text(json.dumps(shape))
    save_file({name: tensor.cpu() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return Target(folder, device)


def synthetic_examples(target: Target, num_tokens: int, num: int) -> list[Example]:
    """Traces of random tokens with random states, as many as the largest batch takes."""
    hidden, found = target.config["hidden_size"], []
    for i in range(num):
        generator = torch.Generator().manual_seed(i)
        tokens = torch.randint(0, target.config["vocab_size"], (num_tokens + 1,), generator=generator).tolist()
        source = TraceSource(f"{i:032x}", "random", tuple(tokens), num_tokens // 4, 0.0, (), "", 0, LOOKAHEAD)
        features, final = (torch.randn(num_tokens, n * hidden, generator=generator).half() for n in (3, 1))
        found.append(target.example(source, features, final))
    return found


def throughput(shape_name: str, positions: list[int], device: torch.device) -> None:
    """Step time, tokens/s and memory for every number of positions per step; then evaluation and saving."""
    shape = SHAPES[shape_name]
    with tempfile.TemporaryDirectory() as folder:
        target = synthetic_target(Path(folder), shape, device)
        config = dataclasses.replace(
            DraftConfig.for_target(shape), draft_vocab_size=shape.get("draft_vocab_size", shape["vocab_size"])
        )
        whole = dataclasses.replace(Recipe.fitting(device, config), positions_at_once=2 * max(positions))
        trainer = Trainer(target, config, LOOKAHEAD, seed=0, recipe=whole)
        size = sum(p.numel() for p in trainer.draft.parameters())
        say(shape=shape_name, states="random", draft_parameters=size, dtype=str(trainer.recipe.dtype))
        for num_tokens in TRACE_TOKENS:
            examples = synthetic_examples(target, num_tokens, max(positions) // num_tokens)
            for rows in sorted({p // num_tokens for p in positions} - {0}):
                facts = {"shape": shape_name, "rows": rows, "row_tokens": num_tokens}
                try:
                    say(**facts, **_time_steps(trainer, examples[:rows], device))
                except torch.OutOfMemoryError:
                    say(**facts, out_of_memory=True)
        held_out = examples[:8]
        seconds, _ = timed(device, lambda: replay(trainer.published(), target, held_out, LOOKAHEAD))
        say(shape=shape_name, evaluation_tokens_per_second=len(held_out) * num_tokens / seconds)
        path = Path(folder) / "trainer.pt"
        seconds, _ = timed(device, lambda: trainer.save(path))
        say(shape=shape_name, save_seconds=seconds, save_mib=path.stat().st_size / 2**20)


def _time_steps(trainer: Trainer, examples: list[Example], device: torch.device) -> dict[str, Any]:
    def steps(num: int) -> None:
        for _ in range(num):
            trainer.step(examples)

    steps(WARMUP_STEPS)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, _ = timed(device, lambda: steps(STEPS))
    num_tokens = sum(example.num_positions for example in examples)
    return {
        "step_ms": 1000 * seconds / STEPS,
        "tokens_per_second": num_tokens * STEPS / seconds,
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
    }


# ---- learning ----


def recorded(path: Path, limit: int | None) -> Iterator[tuple[bool, TraceSource]]:
    """(is held out, trace without states) of the recorded traffic."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for i, line in enumerate(lines):
            if limit is not None and i >= limit:
                return
            answer = json.loads(line)
            tokens, temperature = tuple(answer["tokens"]), answer["temperature"]
            source = TraceSource(
                f"{i:032x}", answer["domain"], tokens, answer["prompt_len"], temperature, (), "", 0, LOOKAHEAD
            )
            yield answer["held_out"], source


def frequent_draft(target: Target, trained: list[TraceSource], size: int) -> tuple[DraftConfig, Eagle3Draft]:
    """A random draft that can say the tokens most frequent in the generated text trained on."""
    counted = generated(trained)
    order = sorted(range(target.config["vocab_size"]), key=lambda token: (-counted[token], token))
    ids = torch.tensor(sorted(order[:size]))
    config = dataclasses.replace(DraftConfig.for_target(target.config), draft_vocab_size=size)
    draft = Eagle3Draft(config, seed=0)
    draft.d2t.copy_(ids - torch.arange(size))
    draft.t2d.zero_()
    draft.t2d[ids] = True
    return config, draft


def generated(sources: list[TraceSource]) -> Counter[int]:
    """How often each token was generated."""
    return Counter(token for source in sources for token in source.tokens[source.prompt_len :])


def accept_lengths(scores: list[TraceScore]) -> dict[str, float]:
    """Over all traces ("all"), and of each domain."""
    found = {}
    for domain in ("all", *sorted({score.domain for score in scores})):
        chosen = [score for score in scores if domain in ("all", score.domain)]
        steps = sum(score.num_verify_steps for score in chosen)
        found[domain] = round(sum(score.num_accept_tokens for score in chosen) / steps, 3)
    return found


def learn(
    trainer: Trainer, examples: list[Example], held_out: list[Example], seconds: float, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Passes over all examples in random orders; what is known at each of MARKS."""
    known = random.Random(0).sample(examples, min(len(examples), TRAINED_SAMPLE))
    spent, total, batches = 0.0, sum(example.num_positions for example in examples), _endless(trainer, examples)
    for mark in (*(mark for mark in MARKS if mark < seconds), seconds):
        started = time.perf_counter()
        while spent + time.perf_counter() - started < mark:
            trainer.step(next(batches))
        wait_for(device)
        spent += time.perf_counter() - started
        draft = trainer.published()
        yield {
            "seconds": round(spent, 1),
            "steps": trainer.step_count,
            "passes": round(trainer.num_tokens / total, 1),
            "tokens_per_second": round(trainer.num_tokens / spent),
            "loss": round(trainer.loss, 3),
            "held_out": accept_lengths(replay(draft, trainer.target, held_out, LOOKAHEAD)),
            "trained": accept_lengths(replay(draft, trainer.target, known, LOOKAHEAD))["all"],
        }


def _endless(trainer: Trainer, examples: list[Example]) -> Iterator[list[Example]]:
    while True:
        yield from training_batches(examples, trainer.recipe.max_positions, random.Random(trainer.step_count))


def changes_of(run: str) -> dict[str, Any]:
    """Fields of Recipe from ``name=value,...``; ValueError for a name that is none."""
    kinds = {field.name: type(getattr(Recipe(), field.name)) for field in dataclasses.fields(Recipe)}
    changes = {}
    for setting in filter(None, run.split(",")):
        name, _, value = setting.partition("=")
        if name not in kinds:
            raise ValueError(f"--run {setting}: no field {name!r}; Recipe has {', '.join(kinds)}")
        changes[name] = kinds[name](value)
    return changes


def learning(given: argparse.Namespace, device: torch.device) -> None:
    target = Target(given.target, device)
    sources = list(recorded(given.traffic, given.limit))
    kept, learnt = ([s for is_held_out, s in sources if is_held_out == side] for side in (True, False))
    config, draft = frequent_draft(target, learnt, given.vocabulary)
    counted = generated(kept)
    covered = sum(num for token, num in counted.items() if draft.t2d[token]) / counted.total()
    seconds, (held_out, trained) = timed(
        device, lambda: [[target.recompute(source, config.aux_layer_ids) for source in side] for side in (kept, learnt)]
    )
    num_states = sum(example.num_positions for example in (*held_out, *trained))
    say(states=num_states, states_per_second=num_states / seconds, held_out_in_draft_vocabulary=covered)
    for run in given.run:
        duration, _, settings = run.partition(":")
        recipe = dataclasses.replace(Recipe.fitting(device, config), **changes_of(settings))
        trainer = Trainer(target, config, LOOKAHEAD, seed=0, recipe=recipe)
        trainer.start_from(draft.state_dict())
        for facts in learn(trainer, trained, held_out, float(duration), device):
            say(run=run, **facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["throughput", "learning"])
    parser.add_argument("--device", default="cuda", help="cpu, cuda or cuda:N")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--positions", nargs="+", type=int, default=[512, 2048, 4096, 8192, 16384])
    parser.add_argument("--target", type=Path, help="checkpoint directory")
    parser.add_argument("--traffic", type=Path, help="recorded answers, .jsonl.gz")
    parser.add_argument("--limit", type=int, help="only the first so many answers")
    parser.add_argument("--vocabulary", type=int, default=8192, help="of the draft")
    parser.add_argument("--run", nargs="+", default=["240:"], metavar="SECONDS:NAME=VALUE,...", help="fields of Recipe")
    given = parser.parse_args()
    if given.what == "learning" and not (given.target and given.traffic):
        parser.error("learning needs --target DIR and --traffic FILE")
    device = find_device(given.device)
    torch.set_num_threads(1)
    say(machine=machine(), device=name_of(device), torch=torch.__version__)
    if given.what == "learning":
        learning(given, device)
        return
    for shape in given.shapes:
        throughput(shape, given.positions, device)


if __name__ == "__main__":
    main()
