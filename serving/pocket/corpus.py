"""What the pocket target is trained on: generated questions and their answers, nothing else.

Every example is a function of (domain, split, number), so a resumed run reads exactly what an unbroken one would.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from tokenizers import Tokenizer

from serving.pocket.tokenizer import EOS_ID
from serving.traffic.domains.arithmetic import Arithmetic
from serving.traffic.domains.base import GeneratedDomain, Split
from serving.traffic.domains.json_tools import JsonTools
from serving.traffic.domains.sql import Sql

DOMAINS: tuple[GeneratedDomain, ...] = (Arithmetic(), Sql(), JsonTools())
TRAINING_SEED = 10**9  # examples use seeds from here on; traffic uses small ones, so they draw different prompts
TOKENIZER_PROMPTS = 4000  # of each domain


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt's tokens, and those of its answer through EOS."""

    question: list[int]
    answer: list[int]


def tokenizer_texts() -> Iterator[str]:
    """Texts of the train split to train the tokenizer on."""
    for domain in DOMAINS:
        for prompt in islice(domain.prompts(TRAINING_SEED), TOKENIZER_PROMPTS):
            yield prompt.text + prompt.reference


def example(tokenizer: Tokenizer, domain: GeneratedDomain, split: Split, number: int) -> Example:
    """Example `number` of a domain's split."""
    prompt = next(domain.prompts(TRAINING_SEED + number, split))
    return Example(tokenizer.encode(prompt.text).ids, [*tokenizer.encode(prompt.reference).ids, EOS_ID])
