"""How a request is put: the same task in many words, so that a text that comes again is asked about in another way."""

import random
from collections.abc import Sequence

READERS = (
    "Write for a beginner.",
    "Write for an experienced programmer.",
    "Write for a student in the first year.",
    "Write for a colleague who reviews the change.",
    "Write for somebody who knows Java but no Python.",
    "Write for a technical writer.",
    "Write for a busy manager.",
    "Write for a teenager.",
)
TONES = (
    "Be brief.",
    "Be precise.",
    "Use plain words.",
    "Use a friendly tone.",
    "Use a formal tone.",
    "Avoid jargon.",
    "Say only what is certain.",
    "Start with the most important point.",
    "End with a one-line summary.",
)
FORMS = (
    "Answer as a numbered list.",
    "Answer with bullet points.",
    "Answer in one paragraph.",
    "Answer in two short paragraphs.",
    "Answer with a short heading and a paragraph below it.",
    "Answer with a small table.",
)
WORD_LIMITS = tuple(f"Use at most {num} words." for num in range(30, 125, 5))
SENTENCE_LIMITS = tuple(
    f"Use {num} sentences{most}." for num in "two three four five six".split() for most in (" at most", "")
)
SHAPES = (*FORMS, *FORMS, *WORD_LIMITS, *SENTENCE_LIMITS)  # one of them at a time, or they contradict each other


def style(rng: random.Random, *kinds: Sequence[str]) -> str:
    """Up to two sentences on how to answer, at most one of each kind given."""
    wishes = [rng.choice(kind) for kind in kinds if rng.random() < 0.4]
    rng.shuffle(wishes)
    return " ".join(wishes[:2])


def sentences(*parts: str) -> str:
    """The parts that say something, in one line."""
    return " ".join(filter(None, parts))


def around(rng: random.Random, request: str, text: str) -> str:
    """The request before the text it is about, or after it."""
    return f"{request}\n\n{text}" if rng.random() < 0.7 else f"{text}\n\n{request}"
