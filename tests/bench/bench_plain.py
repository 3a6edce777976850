"""Plain decoding against transformers: `python -m tests.bench.bench_plain [--model smollm2]`.

The same held-out prompts, float32, one thread, greedy, so many tokens whatever comes; prefill is in the time of both.
Beside it transformers in bfloat16, which the engine has no like of (its activations are float32).
Rounds are interleaved; each engine gets as many requests at once as the batch is large. Ratios are of medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import queue
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from serving.engine.api import FinishedRequest, Request, SamplingParams
from serving.engine.config import EngineConfig
from serving.engine.engine import Engine
from serving.pocket.report import distinct_3gram_share
from tests.bench.machine import machine
from tests.bench.models import prepared, prompts

BATCHES = (1, 8)
MAX_PROMPT = 128
Decode = Callable[[list[tuple[int, ...]], int], list[list[int]]]


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "pocket"])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = prepared(given.model)
    engines = {
        "transformers": of_transformers(folder, torch.float32),
        "aurora": of_aurora(folder),
        "transformers_bf16": of_transformers(folder, torch.bfloat16),
    }
    found = [each[-MAX_PROMPT:] for each in itertools.chain(*prompts(given.model, 8).values())]
    for decode in engines.values():
        decode(found[:1], 4)  # warm
    result: dict[str, object] = {"machine": machine(), "model": given.model}
    for size in BATCHES:
        rates: dict[str, list[float]] = {name: [] for name in engines}
        equal = num = 0
        outputs: list[list[int]] = []
        for number in range(given.rounds):
            batch = found[number * size : (number + 1) * size]
            texts = []
            for name, decode in engines.items():
                started = time.perf_counter()
                texts.append(decode(batch, given.tokens))
                rates[name].append(size * given.tokens / (time.perf_counter() - started))
            num += size
            outputs += texts[1]
            equal += sum(a == b for a, b in zip(*texts[:2], strict=True))
        medians = {name: statistics.median(values) for name, values in rates.items()}
        result[f"batch_{size}"] = {
            "tokens_per_second": {name: round(value, 1) for name, value in medians.items()},
            "ratio": round(medians["aurora"] / medians["transformers"], 2),
            "ratio_bf16": round(medians["aurora"] / medians["transformers_bf16"], 2),
            "distinct_3grams": round(distinct_3gram_share(outputs), 3),
            "equal_texts": f"{equal} of {num}",  # transformers forbids end tokens, and pads in a batch
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
