"""Domain `chat`: general questions, about everyday life, science, places, languages and computers."""

import random
from collections.abc import Iterator

from serving.traffic.domains.base import Draft, RealDomain, Split, split_of
from serving.traffic.domains.subjects import KINDS
from serving.traffic.domains.wording import SHAPES, TONES, sentences, style

KIND_WEIGHTS = {"everyday": 5, "science": 5, "city": 3, "module": 2}  # 1 for the others
READERS = (
    "Write for a beginner.",
    "Write for a child of {n} years.",
    "Write for an expert.",
    "Write for my grandmother.",
    "Write as a teacher would.",
    "Write for a busy reader.",
    "Write for a newspaper.",
    "I have {n} minutes to read it.",
)
OPENINGS = ("", "", "", "", "Hi!", "Hello.", "Please help me.", "A short question:", "I am curious.", "Quick question.")


class Chat(RealDomain):
    """Answers are prose of every kind."""

    name = "chat"

    def drafts(self, rng: random.Random, split: Split) -> Iterator[Draft]:
        weights = [KIND_WEIGHTS.get(kind, 1) for kind in KINDS]
        subjects = {kind: [s for s in known() if split_of(s) == split] for kind, (known, _) in KINDS.items()}
        while True:
            [kind] = rng.choices(list(KINDS), weights)
            if len(subjects[kind]) >= 2:
                yield self._draft(rng, subjects[kind], rng.choice(KINDS[kind][1]))

    def _draft(self, rng: random.Random, subjects: list[str], question: str) -> Draft:
        subject, other = rng.sample(subjects, 2)
        asked = question.format(x=subject, y=other, n=rng.randint(2, 9))
        wishes = style(rng, READERS, SHAPES, TONES).format(n=rng.randint(5, 12))
        return Draft(subject, sentences(rng.choice(OPENINGS), asked, wishes))
