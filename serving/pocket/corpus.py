"""Training and held-out rows of tokens for the demo target: real text in permuted windows, generated text packed.

Every row is a function of (domain, split, row number), so a resumed run reads exactly what an unbroken one would.
"""

import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from serving.pocket.tokenizer import EOS_ID
from serving.traffic.domains.base import GeneratedDomain, Split, split_of
from serving.traffic.domains.prose import clean_paragraphs, is_sentence_like
from serving.traffic.domains.registry import DOMAINS, get_domain
from serving.traffic.domains.stdlib_text import docstrings, modules_in

Tokens = NDArray[np.uint16]

TRAINING_SEED = 10**9  # rows use seeds from here on; traffic uses small ones, so they draw different prompts
ROLE = re.compile(r":[a-z:]+:`([^`<]*?)(?:\s*<[^>`]*>)?`")
DIRECTIVE = re.compile(r"^\s*(\.\. |:[a-z]+:|[=\-~^*+|]{3})")


def plain_text(source: str) -> str:
    """reStructuredText as plain paragraphs: roles and literals unwrapped, anything not a sentence dropped."""
    source = ROLE.sub(lambda match: match[1].lstrip("!~"), source).replace("``", "").replace("**", "")
    paragraphs = [p for p in clean_paragraphs(source) if not DIRECTIVE.match(p) and is_sentence_like(p)]
    return "\n\n".join(p.replace("::", ":") for p in paragraphs)


def documents(domain: str, split: Split, prose_dir: Path | None) -> list[str]:
    """The real-text documents of a domain; `prose_dir` adds its .rst, .rst.txt and .txt files to `prose`."""
    if domain == "python_code":
        return [module.source() for module in modules_in(split)]
    found = [
        "\n\n".join(p for text in docstrings(module) for p in clean_paragraphs(text) if is_sentence_like(p))
        for module in modules_in(split)
    ]
    for path in sorted(prose_dir.rglob("*.rst*")) + sorted(prose_dir.rglob("*.txt")) if prose_dir else []:
        if split_of(path.name.split(".rst")[0]) == split:
            found.append(plain_text(path.read_text(encoding="utf-8", errors="replace")))
    return list(dict.fromkeys(text for text in found if len(text) > 200))


def tokenizer_texts(prose_dir: Path | None, num_bytes: int = 4_000_000) -> Iterator[str]:
    """Texts to train the tokenizer on, from the train split: about `num_bytes` of each real domain."""
    for domain in ("python_code", "prose"):
        texts = documents(domain, "train", prose_dir)
        random.Random(0).shuffle(texts)
        size = 0
        for text in texts:
            size += len(text)
            if size > num_bytes:
                break
            yield text
    for source in DOMAINS.values():
        if isinstance(source, GeneratedDomain):
            for prompt in islice(source.prompts(TRAINING_SEED), 4000):
                yield prompt.text + prompt.reference


class Rows:
    """Rows of `row_tokens` ids for one split; raises ValueError for an unknown domain."""

    def __init__(self, tokenizer: Tokenizer, split: Split, row_tokens: int, prose_dir: Path | None = None) -> None:
        self.tokenizer = tokenizer
        self.split = split
        self.row_tokens = row_tokens
        self.prose_dir = prose_dir
        self._windows: dict[str, NDArray[np.uint16]] = {}

    def row(self, domain: str, number: int) -> Tokens:
        """Row `number` of a domain, uint16 [row_tokens]; real text starts over in a new order when it runs out."""
        source = get_domain(domain)
        if isinstance(source, GeneratedDomain):
            return self._generated(source, number)
        windows = self._real(domain)
        epoch, index = divmod(number, len(windows))
        order = np.random.default_rng([epoch, len(windows)]).permutation(len(windows))
        chosen: Tokens = windows[order[index]]
        return chosen

    def num_tokens(self, domain: str) -> int:
        """Distinct tokens of a real-text domain."""
        return int(self._real(domain).size)

    def _generated(self, source: GeneratedDomain, number: int) -> Tokens:
        ids: list[int] = []
        for prompt in source.prompts(TRAINING_SEED + number, self.split):
            ids += [*self.tokenizer.encode(prompt.text + prompt.reference).ids, EOS_ID]
            if len(ids) >= self.row_tokens:
                break
        return np.array(ids[: self.row_tokens], dtype=np.uint16)

    def _real(self, domain: str) -> NDArray[np.uint16]:
        if domain not in self._windows:
            texts = documents(domain, self.split, self.prose_dir)
            random.Random(1).shuffle(texts)
            encoded = self.tokenizer.encode_batch(texts)
            ids = np.concatenate([np.array([*item.ids, EOS_ID], dtype=np.uint16) for item in encoded])
            count = len(ids) // self.row_tokens
            self._windows[domain] = ids[: count * self.row_tokens].reshape(count, self.row_tokens)
        return self._windows[domain]
