"""What a demo domain is: an endless, deterministic source of prompts with a train and a held-out split."""

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "heldout"]

HELDOUT_ONE_IN = 16


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a domain; `reference` is a right continuation, or for real text the one that followed."""

    domain: str
    text: str
    reference: str


def stable_hash(text: str) -> int:
    """64-bit hash that is the same in every process and Python version."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


def split_of(key: str) -> Split:
    """The split that `key` (a module name, a document name or a whole prompt) belongs to, for ever."""
    return "heldout" if stable_hash(key) % HELDOUT_ONE_IN == 0 else "train"


class Domain(ABC):
    """A named source of prompts."""

    name: str

    @abstractmethod
    def prompts(self, seed: int, split: Split = "train") -> Iterator[Prompt]:
        """Yield prompts in an order fixed by `seed`, never the same text twice, from one split only."""


class GeneratedDomain(Domain):
    """A domain whose prompts are made up from templates; the split of a prompt is the hash of its text."""

    @abstractmethod
    def example(self, rng: random.Random) -> tuple[str, str]:
        """Draw one (request, right answer) pair."""

    def prompts(self, seed: int, split: Split = "train") -> Iterator[Prompt]:
        seen: set[int] = set()
        rng = random.Random(f"{self.name}:{split}:{seed}")
        while True:
            request, answer = self.example(rng)
            text = as_request(request)
            key = stable_hash(text)
            if key in seen or split_of(text) != split:
                continue
            seen.add(key)
            yield Prompt(self.name, text, answer)


def as_request(request: str) -> str:
    """Write a request the way the demo target was trained to read one (its chat template writes the same)."""
    return f"### Question\n{request}\n### Answer\n"
