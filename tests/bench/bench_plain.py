"""Plain decoding against transformers: `python -m tests.bench.bench_plain [--model smollm2]`.

The same held-out prompts, float32, one thread, greedy, so many tokens whatever comes; prefill is in the time of both.
Beside it transformers in bfloat16, which the engine has no like of (its activations are float32).
In a round each domain has its turn with each engine, which gets as many requests at once as the batch is large. Ratios
are of medians. Texts that differ are judged where they first do: `generate`, told to write so many tokens, may not say
an end token, which the engine says and goes on; else the target's top two logits are an exact tie there, or it is a
mismatch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import queue
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from serving.engine.api import FinishedRequest, Request, SamplingParams
from serving.engine.config import EngineConfig
from serving.engine.engine import Engine
from serving.model.decoder import Decoder
from serving.pocket.report import distinct_3gram_share
from tests.bench.bench_costs import verdict
from tests.bench.machine import machine
from tests.bench.models import prepared, prompts

BATCHES = (1, 8)
MAX_PROMPT = 128
Decode = Callable[[list[tuple[int, ...]], int], list[list[int]]]
Judge = Callable[
    [tuple[int, ...], tuple[int, ...]], str
]  # of aurora's tokens and those of transformers, prompts included


def of_transformers(folder: Path, dtype: torch.dtype) -> Decode:
    """`generate` with left padding, as its users batch."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    pad = int(model.generation_config.pad_token_id)

    def decode(batch: list[tuple[int, ...]], num_tokens: int) -> list[list[int]]:
        longest = max(map(len, batch))
        ids = torch.tensor([[pad] * (longest - len(each)) + list(each) for each in batch])
        mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in batch])
        with torch.inference_mode():
            answer = model.generate(
                ids, attention_mask=mask, do_sample=False, max_new_tokens=num_tokens, min_new_tokens=num_tokens
            )
        return [row[longest:].tolist() for row in answer]

    return decode


def of_aurora(folder: Path) -> Decode:
    """The embedded engine without a draft."""
    engine = Engine(folder, EngineConfig(max_requests=max(BATCHES), fixed_lookahead=0))
    engine.start()
    numbers = itertools.count()

    def decode(batch: list[tuple[int, ...]], num_tokens: int) -> list[list[int]]:
        done: queue.Queue[FinishedRequest] = queue.Queue()
        sampling = SamplingParams(max_tokens=num_tokens, ignore_eos=True)
        names = [str(next(numbers)) for _ in batch]
        for name, prompt in zip(names, batch, strict=True):
            engine.submit(Request(name, prompt, sampling, keep_states=False, on_finish=done.put))
        found = {each.request_id: list(each.tokens[each.prompt_len :]) for each in (done.get() for _ in batch)}
        return [found[name] for name in names]

    return decode


@dataclass(slots=True)
class Turns:
    """What the engines made of batches of one size."""

    rates: dict[str, list[float]] = field(default_factory=dict)  # tokens per second of each engine, a batch each
    outputs: list[list[int]] = field(default_factory=list)  # aurora's
    verdicts: Counter[str] = field(default_factory=Counter)  # on them and those of transformers

    def add(self, engines: dict[str, Decode], batch: list[tuple[int, ...]], num_tokens: int, judge: Judge) -> None:
        """One batch, on one engine after the other."""
        texts = {}
        for name, decode in engines.items():
            started = time.perf_counter()
            texts[name] = decode(batch, num_tokens)
            self.rates.setdefault(name, []).append(len(batch) * num_tokens / (time.perf_counter() - started))
        self.outputs += texts["aurora"]
        for prompt, ours, theirs in zip(batch, texts["aurora"], texts["transformers"], strict=True):
            self.verdicts[judge((*prompt, *ours), (*prompt, *theirs))] += 1

    def __add__(self, other: Turns) -> Turns:
        rates = {name: self.rates.get(name, []) + found for name, found in other.rates.items()}
        return Turns(rates, self.outputs + other.outputs, self.verdicts + other.verdicts)

    def facts(self) -> dict[str, object]:
        medians = {name: statistics.median(values) for name, values in self.rates.items()}
        return {
            "tokens_per_second": {name: round(value, 1) for name, value in medians.items()},
            "ratio": round(medians["aurora"] / medians["transformers"], 2),
            "ratio_bf16": round(medians["aurora"] / medians["transformers_bf16"], 2),
            "distinct_3grams": round(distinct_3gram_share(self.outputs), 3),
            "equal_texts": f"{self.verdicts['equal']} of {len(self.outputs)}",
            "other_texts": {name: self.verdicts[name] for name in ("forbidden", "tie", "mismatch")},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "pocket"])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = prepared(given.model)
    engines = {
        "transformers": of_transformers(folder, torch.float32),
        "aurora": of_aurora(folder),
        "transformers_bf16": of_transformers(folder, torch.bfloat16),
    }
    decoder = Decoder(folder, (), 1, 1024)
    judge = partial(verdict, decoder, forbidden=frozenset(decoder.config.eos_token_ids))
    found = prompts(given.model, given.rounds * max(BATCHES))
    by_domain = {domain: [each[-MAX_PROMPT:] for each in texts] for domain, texts in found.items()}
    for decode in engines.values():
        decode(next(iter(by_domain.values()))[:1], 4)  # warm
    result: dict[str, object] = {"machine": machine(), "model": given.model}
    for size in BATCHES:
        turns = {domain: Turns() for domain in by_domain}
        for first in range(0, given.rounds * size, size):
            for domain, texts in by_domain.items():
                turns[domain].add(engines, texts[first : first + size], given.tokens, judge)
        of_all = sum(turns.values(), Turns())
        result[f"batch_{size}"] = of_all.facts() | {"domains": {name: each.facts() for name, each in turns.items()}}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
