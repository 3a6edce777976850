"""Which tokens a new draft can propose: those that text of the kind that models read and write is made of.

Counted where the draft is made, on text that every machine with Aurora has: Python's standard library, its topics of
help, and the descriptions of the installed packages. To each is added what the ids themselves say: BPE numbers its
tokens in the order of its merges, so early ones are the frequent ones of what the tokenizer was trained on. What the
traffic says is counted from then on, and the vocabulary follows.

Of what SmolLM2-135M-Instruct answers to the demo's prompts, 8,192 of its 49,152 tokens chosen so hold 91.4 %, by the
order of ids alone 86.2 %; after 50 other answers of traffic 94.1 % (361 tokens exchanged), after 480 95.4 % (2,163).
Measured by tests/bench/bench_vocabulary.py.
"""

from __future__ import annotations

import json
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

TEXT_CHARACTERS = 2_000_000  # of each kind of text
ORDER_WEIGHT = 0.5  # of the ids' order beside one kind of text
ORDER_OFFSET = 1000  # share of the token with id i: in proportion to 1 / (i + ORDER_OFFSET)
PRIOR_TOKENS = 5_000.0  # of traffic: as much weighs what is known before there is any
HALF_LIFE = 500_000.0  # tokens of traffic after which one counts half
PROMPT_WEIGHT = 0.25  # of a prompt's token beside a generated one, which a draft might have proposed
LEAST_GAIN = 0.002  # of what the traffic says; for less, no token is exchanged
END_KEYS = ("eos_token_id", "bos_token_id")


def choose(folder: Path | None, config: dict[str, Any], size: int) -> Tensor:
    """``size`` rising ids of the target whose ``config.json`` is given; ends of text are always among them.

    Without a folder, or without a ``tokenizer.json`` in it, the order of ids decides alone.
    """
    num_tokens = int(config["vocab_size"])
    return torch.arange(size) if size == num_tokens else most_frequent(prior(folder, config), size)


def prior(folder: Path | None, config: dict[str, Any]) -> Tensor:
    """Counts [vocab_size] that stand for traffic before there is any; without bound for the ends of text."""
    num_tokens = int(config["vocab_size"])
    order = 1.0 / (torch.arange(num_tokens, dtype=torch.float64) + ORDER_OFFSET)
    score = order / order.sum() * ORDER_WEIGHT
    path = folder / "tokenizer.json" if folder is not None else None
    if path is not None and path.is_file():
        tokenizer = Tokenizer.from_file(str(path))
        for texts in (_source_code(), _topics(), _descriptions()):
            score += _shares(tokenizer, texts, num_tokens)
    return _with_ends(score / score.sum() * PRIOR_TOKENS, folder, config)


def prior_of(target_ids_V: Tensor, folder: Path | None, config: dict[str, Any]) -> Tensor:
    """The same for a draft with a vocabulary of its own: each of its tokens counts alike, all others nothing."""
    counts = torch.zeros(int(config["vocab_size"]), dtype=torch.float64)
    counts[target_ids_V.cpu()] = PRIOR_TOKENS / len(target_ids_V)
    return _with_ends(counts, folder, config)


def count(counts: Tensor, tokens: Sequence[int], prompt_len: int) -> None:
    """Add a trace's tokens to the counts, in place."""
    weights = torch.ones(len(tokens), dtype=counts.dtype)
    weights[:prompt_len] = PROMPT_WEIGHT
    counts.mul_(0.5 ** (len(tokens) / HALF_LIFE)).index_add_(0, torch.tensor(tokens), weights)


def most_frequent(counts: Tensor, size: int) -> Tensor:
    """The rising ids of the ``size`` tokens that count most."""
    return counts.topk(size).indices.sort().values


def better(counts: Tensor, target_ids_V: Tensor) -> Tensor | None:
    """As many rising ids that cover more of what was counted than these do; None where that is hardly anything."""
    wanted = most_frequent(counts, len(target_ids_V))
    is_better = coverage(counts, wanted) - coverage(counts, target_ids_V) >= LEAST_GAIN
    return wanted if is_better else None


def coverage(counts: Tensor, target_ids_V: Tensor) -> float:
    """Share of what was counted that these tokens make up, without the ends of text."""
    known = torch.where(counts.isfinite(), counts, 0.0)
    return float(known[target_ids_V].sum() / known.sum().clamp_min(1e-9))


def _shares(tokenizer: Tokenizer, texts: Iterable[str], num_tokens: int) -> Tensor:
    """[num_tokens] of a text: how much of it each token makes up."""
    count: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        count.update(token for token in encoding.ids if token < num_tokens)
    shares = torch.zeros(num_tokens, dtype=torch.float64)
    if count:
        shares[list(count)] = torch.tensor(list(count.values()), dtype=torch.float64) / count.total()
    return shares


def _source_code() -> Iterator[str]:
    return _up_to(TEXT_CHARACTERS, sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")))


def _topics() -> Iterator[str]:
    return _up_to(TEXT_CHARACTERS, [Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data" / "topics.py"])


def _descriptions() -> Iterator[str]:
    return _up_to(TEXT_CHARACTERS, sorted(Path(sysconfig.get_paths()["purelib"]).glob("*.dist-info/METADATA")))


def _up_to(num_characters: int, paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        if num_characters <= 0:
            return
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # one text less
        num_characters -= len(text)
        yield text


def _with_ends(counts: Tensor, folder: Path | None, config: dict[str, Any]) -> Tensor:
    counts[_ends(folder, config, len(counts))] = torch.inf
    return counts


def _ends(folder: Path | None, config: dict[str, Any], num_tokens: int) -> list[int]:
    """Ids that begin or end a text, from the config and the generation config."""
    generation = folder / "generation_config.json" if folder is not None else None
    more = json.loads(generation.read_text(encoding="utf-8")) if generation is not None and generation.exists() else {}
    found: set[int] = set()
    for given in (config.get(key) for key in END_KEYS), (more.get(key) for key in END_KEYS):
        for each in given:
            found.update(each if isinstance(each, list) else [] if each is None else [each])
    return sorted(token for token in found if 0 <= token < num_tokens)
