"""What the pocket target is worth, per domain: `python -m serving.pocket.report [--target DIR]`.

Prints JSON over held-out prompts: the loss (nats per token of the reference answers, given the prompts), how many
greedy answers end by themselves and how many are the reference to the letter, the distinct-3-gram share of all of
them, and one sample. A low share means that the output repeats itself, which flatters every speculator, so it is
reported beside all figures.
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
from serving.pocket.corpus import DOMAINS
from serving.pocket.expand import expand
from serving.traffic.domains.base import Domain

SEED = 424242  # of the prompts; traffic and training draw others


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


def greedy(target_dir: Path, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[FinishedRequest]:
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
    return [found[str(i)] for i in range(len(prompts))]


def report(target_dir: Path, num_prompts: int, max_tokens: int) -> dict[str, Any]:
    """Facts per domain, over held-out prompts."""
    tokenizer = Tokenizer.from_file(str(target_dir / "tokenizer.json"))
    decoder = Decoder(target_dir, (), 1, 1024)
    return {domain.name: _facts(target_dir, tokenizer, decoder, domain, num_prompts, max_tokens) for domain in DOMAINS}


def _facts(
    target_dir: Path, tokenizer: Tokenizer, decoder: Decoder, domain: Domain, num_prompts: int, max_tokens: int
) -> dict[str, Any]:
    prompts = list(islice(domain.prompts(SEED, "heldout"), num_prompts))
    ids = [tokenizer.encode(prompt.text).ids for prompt in prompts]
    answers = [tokenizer.encode(prompt.reference).ids for prompt in prompts]
    losses = [answer_loss(decoder, prompt, answer) for prompt, answer in zip(ids, answers, strict=True)]
    finished = greedy(target_dir, ids, max_tokens)
    outputs = [each.tokens[each.prompt_len :] for each in finished]
    texts = [tokenizer.decode(list(output)) for output in outputs]
    return {
        "prompts": num_prompts,
        "heldout_loss": round(sum(nats for nats, _ in losses) / sum(num for _, num in losses), 3),
        "ended": sum(each.finish_reason == "stop" for each in finished),
        "as_the_reference": sum(text == prompt.reference for text, prompt in zip(texts, prompts, strict=True)),
        "distinct_3grams": round(distinct_3gram_share(outputs), 3),
        "sample": {"prompt": prompts[0].text, "answer": texts[0]},
    }


def main() -> None:
    """Read the command line and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, help="default: the packaged target, expanded to a temporary directory")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--max-tokens", type=int, default=160)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        target = given.target or expand(Path(folder) / "pocket")
        print(json.dumps(report(target, given.prompts, given.max_tokens), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
