"""What a domain of the traffic is: an endless, deterministic source of prompts with a train and a held-out split."""

import hashlib
import random
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "heldout"]

HELDOUT_ONE_IN = 16
MOST_REPEATS = 1000  # in a row: then a domain has run out, and what was there long ago comes again
MAX_MESSAGE_CHARS = 1200  # of a real prompt: 300 to 450 tokens, so that an answer fits into 1,024 beside it


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a domain."""

    domain: str
    text: str  # as a target without a chat template reads it
    reference: str  # a right answer; "" where there are many
    message: str  # what a client sends as the user's message
    source: str  # what it was made from; all prompts from one source are in one split


def stable_hash(text: str) -> int:
    """64-bit hash that is the same in every process and Python version."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


def split_of(key: str) -> Split:
    """The split that `key` (a prompt's source) belongs to, for ever."""
    return "heldout" if stable_hash(key) % HELDOUT_ONE_IN == 0 else "train"


class Seen:
    """Texts that were there before, in 8 bytes each: traffic runs for weeks. ``known``: hashes of more such texts."""

    def __init__(self, known: bytes = b"") -> None:
        hashes = array("Q", known)
        self._hashes = array("Q", sorted(hashes))

    def is_new(self, text: str) -> bool:
        """True the first time."""
        key = stable_hash(text)
        place = bisect_left(self._hashes, key)
        if place < len(self._hashes) and self._hashes[place] == key:
            return False
        self._hashes.insert(place, key)
        return True


def each_once(prompts: Iterator[Prompt]) -> Iterator[Prompt]:
    """Without texts that were there before; once hardly any other comes, all of them again."""
    seen, num_repeats = Seen(), 0
    for prompt in prompts:
        if seen.is_new(prompt.text):
            num_repeats = 0
            yield prompt
        elif (num_repeats := num_repeats + 1) >= MOST_REPEATS:
            seen, num_repeats = Seen(), 0


class Domain(ABC):
    """A named source of prompts."""

    name: str

    @abstractmethod
    def prompts(self, seed: int, split: Split = "train") -> Iterator[Prompt]:
        """Yield prompts without end, in an order fixed by `seed`, from one split only, no text twice until it runs out.

        A domain that has run out starts over.
        """


class GeneratedDomain(Domain):
    """Made-up requests that the pocket target was trained to answer; the split of a prompt is the hash of its text."""

    @abstractmethod
    def example(self, rng: random.Random) -> tuple[str, str]:
        """Draw one (request, right answer) pair."""

    def prompts(self, seed: int, split: Split = "train") -> Iterator[Prompt]:
        return each_once(self._drawn(random.Random(f"{self.name}:{split}:{seed}"), split))

    def _drawn(self, rng: random.Random, split: Split) -> Iterator[Prompt]:
        while True:
            request, answer = self.example(rng)
            text = as_request(request)
            if split_of(text) == split:
                yield Prompt(self.name, text, answer, request, text)


def as_request(request: str) -> str:
    """Write a request the way the pocket target was trained to read one (its chat template writes the same)."""
    return f"### Question\n{request}\n### Answer\n"


@dataclass(frozen=True, slots=True)
class Draft:
    """A prompt being made: one wording of a request about a source."""

    source: str
    message: str
    reference: str = ""


class RealDomain(Domain):
    """Requests about texts that the machine has, for a target that follows instructions."""

    @abstractmethod
    def drafts(self, rng: random.Random, split: Split) -> Iterator[Draft]:
        """Draw requests without end; a text that comes again, or is too long, is dropped by the caller."""

    def prompts(self, seed: int, split: Split = "train") -> Iterator[Prompt]:
        return each_once(self._drawn(random.Random(f"{self.name}:{split}:{seed}"), split))

    def _drawn(self, rng: random.Random, split: Split) -> Iterator[Prompt]:
        for draft in self.drafts(rng, split):
            if len(draft.message) <= MAX_MESSAGE_CHARS:
                yield Prompt(self.name, draft.message, draft.reference, draft.message, draft.source)
