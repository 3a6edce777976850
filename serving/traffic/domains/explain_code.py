"""Domain `explain_code`: a function of the standard library, and a question about it."""

import random
from collections.abc import Iterator

from serving.traffic.domains.base import Draft, RealDomain, Split
from serving.traffic.domains.machine_texts import Function, functions
from serving.traffic.domains.wording import READERS, SHAPES, TONES, around, sentences, style

TASKS = (
    "Explain what this Python function does.",
    "Explain this Python function step by step.",
    "What does this Python function return, and when does it raise an exception?",
    "Describe the arguments of this Python function and what it does with them.",
    "Which edge cases does this Python function handle?",
    "Walk through this Python code line by line.",
    "Summarise this Python function for a README.",
    "What problem does this Python function solve?",
    "Explain the control flow of this Python function.",
    "Name one thing that could go wrong in this Python function, and say why.",
    "Give an example call of this Python function and explain what happens.",
    "Put this Python function into pseudocode and explain each step.",
    "Review this Python function: what is good, what could be clearer?",
    "What side effects does this Python function have?",
    "Which variables does this Python function use, and what is each for?",
    "How would you test this Python function? Explain what each test checks.",
)


class ExplainCode(RealDomain):
    """Answers are prose about code."""

    name = "explain_code"

    def drafts(self, rng: random.Random, split: Split) -> Iterator[Draft]:
        for function in functions(rng, split):
            yield Draft(function.source, self._message(rng, function))

    def _message(self, rng: random.Random, function: Function) -> str:
        origin = f"It is `{function.name}` of the module `{function.module}`." if rng.random() < 0.5 else ""
        request = sentences(rng.choice(TASKS), origin, style(rng, READERS, SHAPES, TONES))
        return around(rng, request, f"```python\n{function.source}\n```")
