"""The engine's own choice of lookaheads against fixed ones: `python -m tests.bench.bench_lookahead --draft DIR`.

One engine, ``--requests`` at once, half of them greedy and half at temperature 0.7. In each round the same prompts are
decoded once per way: without drafts ("0"), with every domain pinned to a lookahead, and as the engine chooses. A JSON
line per way: tokens per second of decoding relative to no drafts in the same rounds, and accept length.
"""

from __future__ import annotations

import argparse
import json
import queue
import uuid
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from serving.engine.api import FinishedRequest, Request, SamplingParams
from serving.engine.config import EngineConfig
from serving.engine.engine import Engine
from serving.pocket.report import distinct_3gram_share
from speculators.records import DomainPin, DomainPins
from tests.bench.machine import machine
from tests.bench.models import prepared, prompts

CHOSEN = "chosen"


@dataclass(slots=True)
class Tally:
    """What one way has taken so far, in request-seconds of decoding."""

    num_tokens: int = 0
    seconds: float = 0.0
    num_correct: int = 0
    num_drafted_steps: int = 0
    outputs: list[tuple[int, ...]] = field(default_factory=list)

    def add(self, finished: FinishedRequest) -> None:
        self.num_tokens += finished.num_accept_tokens
        self.outputs.append(finished.tokens[finished.prompt_len :])
        self.seconds += finished.decode_seconds
        self.num_correct += finished.num_correct_drafts
        self.num_drafted_steps += finished.num_verify_steps - finished.num_plain_steps


def pins(lookaheads: list[int]) -> DomainPins:
    """One domain per way; the one of the engine's own choice has no pin."""
    return DomainPins(1, tuple(DomainPin(str(k), k or None, speculation_off=not k) for k in lookaheads))


def together(engine: Engine, texts: list[tuple[int, ...]], domain: str, max_tokens: int) -> list[FinishedRequest]:
    """These prompts at once."""
    finished: queue.Queue[FinishedRequest] = queue.Queue()
    for number, prompt in enumerate(texts):
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.7 * (number % 2), seed=number, ignore_eos=True)
        told = {"domain": domain, "keep_states": False, "on_finish": finished.put}
        engine.submit(Request(uuid.uuid4().hex, prompt, sampling, **told))
    return [finished.get(timeout=300) for _ in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "pocket"])
    parser.add_argument("--draft", type=Path, required=True, help="checkpoint directory of a trained draft")
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--lookaheads", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    given = parser.parse_args()
    by_domain = prompts(given.model, given.requests * given.rounds)
    mixed = list(chain.from_iterable(zip(*by_domain.values(), strict=True)))
    engine = Engine(prepared(given.model), EngineConfig(control_share=0.0, max_lookahead=max(given.lookaheads)))
    engine.start()
    engine.swap(1, engine.load_draft(given.draft)).result(60)
    engine.pins.replace(pins(given.lookaheads))
    ways = {name: Tally() for name in (*map(str, given.lookaheads), CHOSEN)}
    for first in range(0, given.rounds * given.requests, given.requests):
        for name, tally in ways.items():
            for finished in together(engine, mixed[first : first + given.requests], name, given.max_tokens):
                tally.add(finished)
    engine.stop()
    print(json.dumps({"machine": machine(), "requests": given.requests}), flush=True)
    plain = ways["0"].num_tokens / ways["0"].seconds
    for name, tally in ways.items():
        accept_length = 1 + tally.num_correct / tally.num_drafted_steps if tally.num_drafted_steps else None
        speed = round(tally.num_tokens / tally.seconds / plain, 3)
        share = round(distinct_3gram_share(tally.outputs), 3)
        facts = {"lookahead": name, "speed": speed, "accept_length": accept_length, "distinct_3grams": share}
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
