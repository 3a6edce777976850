"""What a step costs, and whether speculation changes greedy text: `python -m tests.bench.bench_costs`.

The demo target, one thread, batch 1. Then every domain's prompts are decoded greedily
with a random draft at lookahead 4 and without one; a mismatch counts unless it sits at an exact tie.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from serving.draft_runner import DraftRunner
from serving.engine.config import EngineConfig
from serving.engine.costs import CONTEXT, measure
from serving.engine.engine import Engine
from serving.model.attention import Span
from serving.model.decoder import Decoder
from serving.pocket.expand import expand
from serving.traffic.domains.registry import POCKET
from speculators import checkpoint
from speculators.eagle3 import DraftConfig, Eagle3Draft
from tests.bench.frozen import serve

TIE_MARGIN = 1e-4
ROUNDS = 9
PROMPTS = 8


def costs(target_dir: Path) -> dict[str, Any]:
    """Medians over interleaved rounds; in each, the parts run a few times in a row, and whole steps as at work."""
    config = DraftConfig.for_target(json.loads((target_dir / "config.json").read_text(encoding="utf-8")))
    decoder = Decoder(target_dir, config.aux_layer_ids, 4, 1024)
    draft = DraftRunner(config, Eagle3Draft(config).state_dict(), decoder.embed_VH, 4, 1024)
    hidden, one = torch.ones(1, config.hidden_size), torch.ones(1, dtype=torch.int64)

    def verify(rows: int) -> None:
        states = decoder.forward(torch.ones(rows, dtype=torch.int64), [Span(0, CONTEXT, rows)])
        decoder.logits(states.final).argmax(-1).tolist()

    parts: dict[str, Callable[[], Any]] = {
        "one_token": lambda: verify(1),
        "verify_5_tokens": lambda: verify(5),
        "verify_9_tokens": lambda: verify(9),
        "draft_step": lambda: draft.chain(hidden, one, [Span(0, CONTEXT, 1)]).logits.argmax(-1).tolist(),
    }
    ratios: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        times = {name: least(call) for name, call in parts.items()}
        whole = measure(decoder, draft, 4).step
        for name, seconds in times.items():
            ratios.setdefault(name, []).append(seconds / times["one_token"])
        ratios.setdefault("one_token_ms", []).append(times["one_token"] * 1e3)
        ratios.setdefault("step_of_lookahead_4", []).append(whole[1][4] / whole[1][0])
        ratios.setdefault("step_of_lookahead_4_batch_4", []).append(whole[4][4] / whole[4][0])
    return {name: round(statistics.median(values), 3) for name, values in ratios.items()}


def least(call: Callable[[], Any]) -> float:
    """Seconds of the quickest of a few calls in a row."""
    times = []
    for _ in range(12):
        started = time.perf_counter()
        with torch.inference_mode():
            call()
        times.append(time.perf_counter() - started)
    return min(times)


def mismatches(target_dir: Path, folder: Path) -> dict[str, int]:
    """Greedy outputs that differ, and how many of them beyond an exact tie."""
    tokenizer = Tokenizer.from_file(str(target_dir / "tokenizer.json"))
    config = DraftConfig.for_target(json.loads((target_dir / "config.json").read_text(encoding="utf-8")))
    checkpoint.save(folder / "random", config, Eagle3Draft(config, seed=1).state_dict())
    decoder = Decoder(target_dir, (), 1, 1024)
    engine = Engine(target_dir, EngineConfig(fixed_lookahead=4))
    engine.start()
    engine.swap(1, engine.load_draft(folder / "random")).result(30)
    found = {"outputs": 0, "tokens": 0, "ties": 0, "mismatches": 0}
    for domain in POCKET.values():
        for prompt in islice(domain.prompts(99, "heldout"), PROMPTS):
            ids = tuple(tokenizer.encode(prompt.text).ids[-600:])
            plain, speculative = (serve(engine, ids, 96, is_control=side).tokens for side in (True, False))
            found["outputs"] += 1
            found["tokens"] += len(plain) - len(ids)
            if plain != speculative:
                place = next(i for i, (a, b) in enumerate(zip(plain, speculative, strict=True)) if a != b)
                found["ties" if margin(decoder, plain[:place]) < TIE_MARGIN else "mismatches"] += 1
    engine.stop()
    return found


def margin(decoder: Decoder, ids: tuple[int, ...]) -> float:
    """Top-1 minus top-2 logit after these tokens."""
    states = decoder.forward(torch.tensor(ids), [Span(0, 0, len(ids))])
    top = decoder.logits(states.final[-1:])[0].topk(2).values
    return float(top[0] - top[1])


def main() -> None:
    """Measure and print JSON."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target_dir = expand(folder / "pocket")
        facts = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "relative_to_one_plain_token": costs(target_dir),
            "greedy_against_plain": mismatches(target_dir, folder),
        }
        print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
