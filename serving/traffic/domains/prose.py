"""Domain `prose`: continue real English, from the docstrings of the running interpreter's standard library.

The split of a docstring is the split of its module, so a held-out module is unseen both as code and as prose.
"""

import random
import re
from collections.abc import Iterator
from functools import lru_cache

from serving.traffic.domains.base import Domain, Prompt, Split
from serving.traffic.domains.stdlib_text import docstrings, modules_in

MIN_PARAGRAPH_CHARS = 140
PROMPT_WORDS = (14, 60)
SENTENCE_START = re.compile(r"[A-Z][a-z]+ ")


def is_sentence_like(paragraph: str) -> bool:
    """True for running English: a capital first, mostly letters, a full stop, few symbols."""
    if not SENTENCE_START.match(paragraph) or "." not in paragraph or ">>>" in paragraph:
        return False
    letters = sum(char.isalpha() or char in " ,." for char in paragraph)
    return letters / len(paragraph) > 0.9


def clean_paragraphs(text: str) -> list[str]:
    """Split text at blank lines and join wrapped lines; every paragraph is one line."""
    return [" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if block.strip()]


@lru_cache(maxsize=2)
def paragraphs_in(split: Split) -> tuple[str, ...]:
    """Sentence-like docstring paragraphs of one split, each once."""
    found: dict[str, None] = {}
    for module in modules_in(split):
        for text in docstrings(module):
            found.update(dict.fromkeys(p for p in clean_paragraphs(text) if is_sentence_like(p)))
    return tuple(p for p in found if len(p) >= MIN_PARAGRAPH_CHARS)


class Prose(Domain):
    """Real sentences cut at a word; the prompt is the words before the cut."""

    name = "prose"

    def prompts(self, seed: int, split: Split = "train") -> Iterator[Prompt]:
        """Yield every cut of every paragraph once in an order fixed by `seed`; ends when there is none left."""
        rng = random.Random(f"{self.name}:{split}:{seed}")
        paragraphs = paragraphs_in(split)
        cuts = [(index, cut) for index, text in enumerate(paragraphs) for cut in self._cuts(text)]
        rng.shuffle(cuts)
        seen: set[str] = set()
        for index, cut in cuts:
            words = paragraphs[index].split(" ")
            text = " ".join(words[:cut])
            if text not in seen:
                seen.add(text)
                yield Prompt(self.name, text, " " + " ".join(words[cut:]))

    def _cuts(self, paragraph: str) -> range:
        words = paragraph.count(" ") + 1
        return range(min(PROMPT_WORDS[0], words - 3), min(PROMPT_WORDS[1], words - 2) + 1)
