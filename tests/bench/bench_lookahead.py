"""The engine's own choice of lookaheads against fixed ones: `python -m tests.bench.bench_lookahead --draft DIR`.

One engine, ``--requests`` at once, half of them greedy and half at temperature 0.7. In each round the same prompts are
decoded once per way: without drafts ("0"), with every domain pinned to a lookahead, and as the engine chooses. A JSON
line per way, of all and of each kind of prompt: tokens per second of decoding relative to no drafts in the same rounds,
and accept length; and how many greedy texts are other than those without drafts, at an exact tie or beyond. (Domains of
the engine are the ways here: its own choice is made for all kinds of prompts together.)
"""

from __future__ import annotations

import argparse
import json
import queue
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.engine.api import FinishedRequest, Request, SamplingParams
from serving.engine.config import EngineConfig
from serving.engine.engine import Engine
from serving.model.decoder import Decoder
from serving.pocket.report import distinct_3gram_share
from speculators.records import DomainPin, DomainPins
from tests.bench.bench_costs import verdict
from tests.bench.machine import machine
from tests.bench.models import prepared, prompts

CHOSEN = "chosen"
ALL = "all"


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

    def facts(self, plain: Tally) -> dict[str, float | None]:
        """``plain``: what the same prompts have taken without drafts."""
        length = 1 + self.num_correct / self.num_drafted_steps if self.num_drafted_steps else None
        speed = self.num_tokens / self.seconds * plain.seconds / plain.num_tokens
        share = round(distinct_3gram_share(self.outputs), 3)
        return {"speed": round(speed, 3), "accept_length": length, "distinct_3grams": share}


def pins(lookaheads: list[int]) -> DomainPins:
    """One domain per way; the one of the engine's own choice has no pin."""
    return DomainPins(1, tuple(DomainPin(str(k), k or None, speculation_off=not k) for k in lookaheads))


def together(
    engine: Engine, texts: Sequence[tuple[int, ...]], domain: str, max_tokens: int, first_greedy: int
) -> list[FinishedRequest]:
    """These prompts at once, every second one greedy; what came of each."""
    finished: queue.Queue[FinishedRequest] = queue.Queue()
    names = [uuid.uuid4().hex for _ in texts]
    for number, (name, prompt) in enumerate(zip(names, texts, strict=True)):
        temperature = 0.7 if (number - first_greedy) % 2 else 0.0
        sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=number, ignore_eos=True)
        told = {"domain": domain, "keep_states": False, "on_finish": finished.put}
        engine.submit(Request(name, prompt, sampling, **told))
    found = {each.request_id: each for each in (finished.get(timeout=300) for _ in texts)}
    return [found[name] for name in names]


def compared(decoder: Decoder, plain: Sequence[tuple[int, ...]], drafted: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """How greedy texts of one way differ from those of the same prompts without drafts."""
    verdicts = [verdict(decoder, *pair) for pair in zip(plain, drafted, strict=True)]
    return {"outputs": len(verdicts), "ties": verdicts.count("tie"), "mismatches": verdicts.count("mismatch")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "pocket"])
    parser.add_argument("--draft", type=Path, required=True, help="checkpoint directory of a trained draft")
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--lookaheads", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    given = parser.parse_args()
    by_kind = prompts(given.model, given.requests * given.rounds)
    mixed = [
        (kind, text) for texts in zip(*by_kind.values(), strict=True) for kind, text in zip(by_kind, texts, strict=True)
    ][: given.rounds * given.requests]
    engine = Engine(prepared(given.model), EngineConfig(control_share=0.0, max_lookahead=max(given.lookaheads)))
    engine.start()
    engine.swap(1, engine.load_draft(given.draft)).result(60)
    engine.pins.replace(pins(given.lookaheads))
    ways = {name: {kind: Tally() for kind in (ALL, *dict(mixed))} for name in (*map(str, given.lookaheads), CHOSEN)}
    greedy: dict[str, list[tuple[int, ...]]] = {name: [] for name in ways}
    for number in range(given.rounds):
        kinds, texts = zip(*mixed[number * given.requests :][: given.requests], strict=True)
        first_greedy = number % 2  # the same for ever would have every other kind of prompt greedy and the rest never
        for name, tallies in ways.items():
            found = together(engine, texts, name, given.max_tokens, first_greedy)
            greedy[name] += [finished.tokens for finished in found[first_greedy::2]]
            for kind, finished in zip(kinds, found, strict=True):
                tallies[ALL].add(finished)
                tallies[kind].add(finished)
    engine.stop()
    decoder = Decoder(prepared(given.model), (), 1, engine.config.max_len)
    print(json.dumps({"machine": machine(), "requests": given.requests}), flush=True)
    for name, tallies in ways.items():
        of_kinds = {kind: tally.facts(ways["0"][kind]) for kind, tally in tallies.items()}
        texts = compared(decoder, greedy["0"], greedy[name])
        print(json.dumps({"lookahead": name, **of_kinds.pop(ALL), "greedy": texts, "domains": of_kinds}), flush=True)


if __name__ == "__main__":
    main()
