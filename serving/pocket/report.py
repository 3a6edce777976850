"""What the demo target is worth, per domain: `python -m serving.pocket.report [--target DIR]`.

Prints JSON: held-out loss (nats per token over the reference answers, given the prompts), distinct-3-gram share of the
greedy output over held-out prompts, and one sample. A low share means that the output repeats itself, which flatters
every speculator; it is reported beside all figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from serving.engine.api import FinishedRequest, Request, SamplingParams
from serving.engine.config import EngineConfig
from serving.engine.engine import Engine
from serving.model.attention import Span
from serving.model.decoder import Decoder
from serving.pocket.expand import expand
from serving.traffic.domains.registry import POCKET

SEED = 424242  # of the prompts; traffic and training draw others
MAX_PROMPT = 512


def distinct_3gram_share(outputs: Sequence[Sequence[int]]) -> float:
    """Distinct 3-grams over all 3-grams of the outputs together; 0.0 without any."""
    grams = [tuple(ids[i : i + 3]) for ids in outputs for i in range(len(ids) - 2)]
    return len(set(grams)) / len(grams) if grams else 0.0


@torch.inference_mode()
def answer_loss(decoder: Decoder, prompt: list[int], answer: list[int]) -> tuple[float, int]:
    """(sum of nats, tokens) of a reference answer after its prompt."""
    ids = (prompt + answer)[: decoder.max_len]
    states = decoder.forward(torch.tensor(ids), [Span(0, 0, len(ids))])
    log_probs = torch.log_softmax(decoder.logits(states.final[len(prompt) - 1 : -1]), -1)
    picked = log_probs.gather(1, torch.tensor(ids[len(prompt) :])[:, None])
    return -float(picked.sum()), len(picked)


def greedy(target_dir: Path, prompts: list[list[int]], max_tokens: int) -> list[tuple[int, ...]]:
    """Greedy answers without speculation, in the order of the prompts."""
    engine = Engine(target_dir, EngineConfig(control_share=1.0))
    found: dict[str, FinishedRequest] = {}
    done = threading.Semaphore(0)

    def finish(finished: FinishedRequest) -> None:
        found[finished.request_id] = finished
        done.release()

    engine.start()
    for i, prompt in enumerate(prompts):
        engine.submit(Request(str(i), tuple(prompt), SamplingParams(max_tokens=max_tokens), on_finish=finish))
    for _ in prompts:
        done.acquire()
    engine.stop()
    return [found[str(i)].tokens[found[str(i)].prompt_len :] for i in range(len(prompts))]


def report(target_dir: Path, num_prompts: int, max_tokens: int) -> dict[str, Any]:
    """Facts per domain, over held-out prompts."""
    tokenizer = Tokenizer.from_file(str(target_dir / "tokenizer.json"))
    decoder = Decoder(target_dir, (), 1, 1024)
    facts: dict[str, Any] = {}
    for name, domain in POCKET.items():
        prompts = list(islice(domain.prompts(SEED, "heldout"), num_prompts))
        ids = [tokenizer.encode(p.text).ids[-MAX_PROMPT:] for p in prompts]
        answers = [tokenizer.encode(p.reference).ids[:256] for p in prompts]
        losses = [answer_loss(decoder, p, a) for p, a in zip(ids, answers, strict=True) if a]
        outputs = greedy(target_dir, ids, max_tokens)
        facts[name] = {
            "heldout_loss": round(sum(x for x, _ in losses) / max(1, sum(n for _, n in losses)), 3),
            "distinct_3grams": round(distinct_3gram_share(outputs), 3),
            "prompts": len(prompts),
            "sample": {"prompt": prompts[0].text[-160:], "answer": tokenizer.decode(list(outputs[0]))[:240]},
        }
    return facts


def main() -> None:
    """Read the command line and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, help="default: the packaged target, expanded to a temporary directory")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--max-tokens", type=int, default=96)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        target = given.target or expand(Path(folder) / "demo")
        print(json.dumps(report(target, given.prompts, given.max_tokens), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
