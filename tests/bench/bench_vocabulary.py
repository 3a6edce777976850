"""Share of what a target writes that a draft's vocabulary holds: the first choice, and what has followed the traffic.

    python -m tests.bench.bench_vocabulary --answers 480 --others 120

The traffic is the target's answers to prompts of the demo's domains, counted as the trainer does after every ten; the
shares are of its answers to other prompts, whose sources the traffic has none of. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from serving.engine.api import FinishedRequest
from speculators.draft_config import DraftConfig
from tests.bench.bench_learning import ALL, answers
from tests.bench.models import prepared
from training_worker import vocabulary

TEMPERATURE = 0.7
ANSWERS_PER_SLICE = 10
EARLY = 50  # answers after which it is looked at for the first time


def share(finished: list[FinishedRequest], ids_V: Tensor) -> float:
    """Of the generated tokens, how many are among these."""
    tokens = torch.tensor([token for each in finished for token in each.tokens[each.prompt_len :]])
    return round(float(torch.isin(tokens, ids_V).double().mean()), 4)


def followed(counts: Tensor, ids_V: Tensor, traffic: list[FinishedRequest]) -> Tensor:
    """The vocabulary after this traffic; ``counts`` are moved on in place."""
    for first in range(0, len(traffic), ANSWERS_PER_SLICE):
        for each in traffic[first : first + ANSWERS_PER_SLICE]:
            vocabulary.count(counts, each.tokens, each.prompt_len)
        ids_V = found if (found := vocabulary.better(counts, ids_V)) is not None else ids_V
    return ids_V


def measure(folder: Path, model: str, num_answers: int, num_others: int) -> dict[str, Any]:
    """Shares of the others' tokens by vocabulary, and per domain the first choice's and the last one's."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = DraftConfig.for_target(config).draft_vocab_size
    traffic = answers(folder, model, ALL, num_answers, TEMPERATURE, "train")
    random.Random(0).shuffle(traffic)  # they came in the order of their domains
    others = answers(folder, model, ALL, num_others, TEMPERATURE)
    counts = vocabulary.prior(folder, config)
    first = vocabulary.most_frequent(counts, size)
    early = followed(counts, first, traffic[:EARLY])
    last = followed(counts, early, traffic[EARLY:])
    of_domain = {name: [each for each in others if each.domain == name] for name in {each.domain for each in others}}
    return {
        "model": model,
        "vocab_size": int(config["vocab_size"]),
        "draft_vocab_size": size,
        "num_answers": [EARLY, num_answers],
        "num_others": num_others,
        "num_tokens": sum(len(each.tokens) - each.prompt_len for each in others),
        "covered": {
            "ids_in_order": share(others, vocabulary.choose(None, config, size)),
            "first": share(others, first),
            "early": share(others, early),
            "last": share(others, last),
        },
        "num_exchanged": [int((~torch.isin(ids_V, first)).sum()) for ids_V in (early, last)],
        "by_domain": {name: [share(some, first), share(some, last)] for name, some in sorted(of_domain.items())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--answers", type=int, default=480, help=f"of the traffic, more than {EARLY}")
    parser.add_argument("--others", type=int, default=120)
    given = parser.parse_args()
    print(json.dumps(measure(prepared(given.model), given.model, given.answers, given.others), indent=1))


if __name__ == "__main__":
    main()
