"""Domain `rewrite_docs`: paragraphs of Python's documentation to shorten, simplify or put into another form."""

import random
from collections.abc import Iterator

from serving.traffic.domains.base import Draft, RealDomain, Split
from serving.traffic.domains.machine_texts import Passage, passages
from serving.traffic.domains.wording import READERS, TONES, WORD_LIMITS, around, sentences, style

TASKS = (
    "Rewrite this documentation in simpler words.",
    "Summarise this documentation.",
    "Shorten this documentation to half of its length.",
    "Rewrite this text as bullet points.",
    "Rewrite this text as a list of questions and answers.",
    "Turn this documentation into a friendly message to a new colleague.",
    "Rewrite this documentation in the second person.",
    "Correct the style of this text and keep its meaning.",
    "Make a headline and a summary out of this text.",
    "Rewrite this text as a short tutorial.",
    "Explain this text with an everyday example.",
    "Write release notes from this documentation.",
    "List the key terms of this text and define each.",
    "Rewrite this text so that each sentence has at most twelve words.",
    "Expand this documentation with one more example.",
    "Put this text into the active voice.",
    "What should a reader remember from this text?",
    "Write three quiz questions about this text, with answers.",
    "Make a checklist for developers out of this text.",
    "Rewrite this text as an answer in a forum.",
)
NAMES = ("Text", "Documentation", "Original", "Paragraph", "Source")


class RewriteDocs(RealDomain):
    """Answers share much with the prompt."""

    name = "rewrite_docs"

    def drafts(self, rng: random.Random, split: Split) -> Iterator[Draft]:
        for passage in passages(rng, split):
            yield Draft(passage.text, self._message(rng, passage))

    def _message(self, rng: random.Random, passage: Passage) -> str:
        subject = f"It is about {passage.subject}." if rng.random() < 0.5 else ""
        request = sentences(rng.choice(TASKS), subject, style(rng, READERS, TONES, WORD_LIMITS))
        quoted = f"{rng.choice(NAMES)}:\n{passage.text}" if rng.random() < 0.5 else f'"""\n{passage.text}\n"""'
        return around(rng, request, quoted)
