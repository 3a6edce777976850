"""Training and held-out rows of tokens for the pocket target: generated text, packed.

Every row is a function of (domain, split, row number), so a resumed run reads exactly what an unbroken one would.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from serving.pocket.tokenizer import EOS_ID
from serving.traffic.domains.base import GeneratedDomain, Split
from serving.traffic.domains.registry import POCKET

Tokens = NDArray[np.uint16]

TRAINING_SEED = 10**9  # rows use seeds from here on; traffic uses small ones, so they draw different prompts


def tokenizer_texts() -> Iterator[str]:
    """Texts to train the tokenizer on, from the train split."""
    for source in POCKET.values():
        for prompt in islice(source.prompts(TRAINING_SEED), 4000):
            yield prompt.text + prompt.reference


class Rows:
    """Rows of `row_tokens` ids for one split."""

    def __init__(self, tokenizer: Tokenizer, split: Split, row_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.split = split
        self.row_tokens = row_tokens

    def row(self, domain: str, number: int) -> Tokens:
        """Row `number` of a domain, uint16 [row_tokens]."""
        return self._generated(POCKET[domain], number)

    def _generated(self, source: GeneratedDomain, number: int) -> Tokens:
        ids: list[int] = []
        for prompt in source.prompts(TRAINING_SEED + number, self.split):
            ids += [*self.tokenizer.encode(prompt.text + prompt.reference).ids, EOS_ID]
            if len(ids) >= self.row_tokens:
                break
        return np.array(ids[: self.row_tokens], dtype=np.uint16)
