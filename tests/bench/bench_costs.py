"""What a step costs, and whether speculation changes greedy text: `python -m tests.bench.bench_costs --model smollm2`.

One thread, batch 1. The plain step that all is relative to is the faster of the packed linears and torch's own, which
for a single row can win. Then every domain's held-out prompts are decoded greedily with a random draft at lookahead 4
and without one; a mismatch counts unless it sits at an exact tie.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from aurora_kernels import packed_linear
from aurora_kernels.sampling import greatest

from serving.draft_runner import DraftRunner
from serving.engine.config import EngineConfig
from serving.engine.costs import CONTEXT
from serving.engine.engine import Engine
from serving.model.attention import Span
from serving.model.decoder import Decoder
from serving.pocket.report import distinct_3gram_share
from speculators import checkpoint
from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft
from tests.bench.frozen import serve
from tests.bench.machine import machine
from tests.bench.models import prepared, prompts

TIE_MARGIN = 1e-4


def costs(target_dir: Path, num_rounds: int) -> dict[str, Any]:
    """Medians over interleaved rounds; in each, the parts run a few times in a row, and whole steps as at work."""
    config = DraftConfig.for_target(json.loads((target_dir / "config.json").read_text(encoding="utf-8")))
    decoder = Decoder(target_dir, config.aux_layer_ids, 4, 1024)
    no, none = (lambda: False), set
    with patch.multiple(packed_linear, packable_dtypes=none, is_half_available=no, is_native=no, is_tiled=no):
        unpacked = Decoder(target_dir, (), 1, 1024)
    draft = DraftRunner(config, Eagle3Draft(config).state_dict(), decoder.embed_VH, 4, 1024)
    hidden, one = torch.ones(1, config.hidden_size), torch.ones(1, dtype=torch.int64)

    def verify(rows: int, decoder: Decoder = decoder) -> None:
        states = decoder.forward(torch.ones(rows, dtype=torch.int64), [Span(0, CONTEXT, rows)])
        greatest(decoder.logits(states.final))

    parts: dict[str, Callable[[], Any]] = {
        "one_token_packed": lambda: verify(1),
        "one_token_unpacked": lambda: verify(1, unpacked),
        "verify_5_tokens": lambda: verify(5),
        "verify_9_tokens": lambda: verify(9),
        "draft_step": lambda: greatest(draft.chain(hidden, one, [Span(0, CONTEXT, 1)]).logits),
    }
    ratios: dict[str, list[float]] = {}
    for _ in range(num_rounds):
        times = {name: least(call) for name, call in parts.items()}
        whole = {(size, k): least(whole_step(decoder, draft, size, k)) for size in (1, 4) for k in (0, 4)}
        plain = min(times["one_token_packed"], times["one_token_unpacked"])
        for name, seconds in times.items():
            ratios.setdefault(name, []).append(seconds / plain)
        ratios.setdefault("plain_step_ms", []).append(plain * 1e3)
        ratios.setdefault("step_of_lookahead_4", []).append(whole[1, 4] / whole[1, 0])
        ratios.setdefault("step_of_lookahead_4_batch_4", []).append(whole[4, 4] / whole[4, 0])
    return {name: round(statistics.median(values), 3) for name, values in ratios.items()}


def whole_step(decoder: Decoder, draft: DraftRunner, size: int, lookahead: int) -> Callable[[], None]:
    """A step as the engine does it: the draft over two new positions, its chain, the target over all rows."""
    slots, start = range(size), CONTEXT
    features = torch.zeros(2 * size, len(draft.config.aux_layer_ids) * draft.config.target_hidden_size)
    pairs, ones = torch.ones(2 * size, dtype=torch.int64), torch.ones(size, dtype=torch.int64)
    rows = torch.ones(size * (lookahead + 1), dtype=torch.int64)

    def step() -> None:
        if lookahead:
            guess = draft.extend(features, pairs, [Span(slot, start - 1, 2) for slot in slots])
            greatest(guess.logits)
        for depth in range(lookahead - 1):
            guess = draft.chain(guess.hidden, ones, [Span(slot, start + 1 + depth, 1) for slot in slots])
            greatest(guess.logits)
        states = decoder.forward(rows, [Span(slot, start, lookahead + 1) for slot in slots])
        greatest(decoder.logits(states.final))

    return step


def least(call: Callable[[], Any]) -> float:
    """Seconds of the quickest of a few calls in a row."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        with torch.inference_mode():
            call()
        times.append(time.perf_counter() - started)
    return min(times)


def mismatches(model: str, folder: Path, num_prompts: int) -> dict[str, Any]:
    """Greedy outputs that differ, and how many of them beyond an exact tie; the share of distinct 3-grams in them."""
    target_dir = prepared(model)
    config = DraftConfig.for_target(json.loads((target_dir / "config.json").read_text(encoding="utf-8")))
    checkpoint.save(folder / "random", config, Eagle3Draft(config, seed=1).state_dict())
    decoder = Decoder(target_dir, (), 1, 1024)
    engine = Engine(target_dir, EngineConfig(fixed_lookahead=4))
    engine.start()
    engine.swap(1, engine.load_draft(folder / "random")).result(30)
    found, everything = {}, []
    for domain, texts in prompts(model, num_prompts).items():
        outputs, verdicts = [], []
        for ids in texts:
            plain, speculative = (serve(engine, ids, 96, is_control=side).tokens for side in (True, False))
            outputs.append(plain[len(ids) :])
            verdicts.append(verdict(decoder, plain, speculative))
        everything += outputs
        found[domain] = {
            "outputs": len(outputs),
            "tokens": sum(map(len, outputs)),
            "ties": verdicts.count("tie"),
            "mismatches": verdicts.count("mismatch"),
            "distinct_3grams": round(distinct_3gram_share(outputs), 3),
        }
    engine.stop()
    total = {key: sum(each[key] for each in found.values()) for key in ("outputs", "tokens", "ties", "mismatches")}
    return total | {"distinct_3grams": round(distinct_3gram_share(everything), 3), "domains": found}


def verdict(
    decoder: Decoder, plain: tuple[int, ...], other: tuple[int, ...], forbidden: Container[int] = frozenset()
) -> str:
    """``equal``, ``forbidden``, ``tie`` or ``mismatch``, by the first place where they differ.

    ``forbidden``: what the other may not say there, whatever it thinks of it.
    """
    if plain == other:
        return "equal"
    place = next(i for i, (a, b) in enumerate(zip(plain, other, strict=True)) if a != b)
    if plain[place] in forbidden:
        return "forbidden"
    return "tie" if margin(decoder, plain[:place]) < TIE_MARGIN else "mismatch"


def margin(decoder: Decoder, ids: tuple[int, ...]) -> float:
    """Top-1 minus top-2 logit after these tokens."""
    states = decoder.forward(torch.tensor(ids), [Span(0, 0, len(ids))])
    top = decoder.logits(states.final[-1:])[0].topk(2).values
    return float(top[0] - top[1])


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "pocket"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--prompts", type=int, default=2, help="per domain, for the comparison of texts")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        facts = {
            "machine": machine(),
            "model": given.model,
            "relative_to_a_plain_step": costs(prepared(given.model), given.rounds),
            "greedy_against_plain": mismatches(given.model, Path(name), given.prompts),
        }
        print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
