"""Domain `write_code`: write a function from its documentation, complete one, or write what belongs beside it."""

import random
from collections.abc import Iterator

from serving.traffic.domains.base import Draft, RealDomain, Split
from serving.traffic.domains.machine_texts import Function, functions
from serving.traffic.domains.wording import around, sentences

WRITE = (
    "Write this Python function.",
    "Implement this Python function according to its documentation.",
    "Fill in the body of this Python function.",
    "Write a Python function with this signature that does what its docstring says.",
    "Here is the head of a Python function. Write all of it.",
)
COMPLETE = (
    "Complete this Python function.",
    "Continue this Python function to its end.",
    "The end of this Python function is missing. Write it.",
    "Finish this Python function and show all of it.",
)
BESIDE = (
    "Write unit tests with pytest for this Python function.",
    "Write a docstring for this Python function and show the function with it.",
    "Add type hints to this Python function.",
    "Write an example script that calls this Python function.",
    "Rewrite this Python function so that it is easier to read.",
    "Rewrite this Python function with clearer names and a comment at each step.",
    "Write a doctest for this Python function.",
    "Write a variant of this Python function that logs what it does.",
    "Write the same function in JavaScript.",
    "Turn this Python function into a method of a small class.",
    "Add checks of the arguments to this Python function.",
)
STYLES = (
    "Answer with code only.",
    "Add a short comment at each step.",
    "Explain the code in two sentences below it.",
    "Use type hints.",
    "Use only the standard library.",
    "Handle wrong arguments with a ValueError.",
    "Give an example of a call at the end.",
    "Keep it short.",
    "Prefer readable code to fast code.",
    "Do not use more than {} lines.",
    "Follow PEP 8.",
)


class WriteCode(RealDomain):
    """Answers are code."""

    name = "write_code"

    def drafts(self, rng: random.Random, split: Split) -> Iterator[Draft]:
        for function in functions(rng, split):
            task, code, reference = self._task(rng, function)
            wishes = rng.sample(STYLES, rng.randint(0, 2))
            request = sentences(task, *(wish.format(rng.randint(8, 40)) for wish in wishes))
            yield Draft(function.source, around(rng, request, f"```python\n{code}\n```"), reference)

    def _task(self, rng: random.Random, function: Function) -> tuple[str, str, str]:
        """(what to do, the code that is given, a right answer)."""
        kind = rng.random()
        if function.docstring and kind < 0.6:
            return rng.choice(WRITE), head(function), function.source
        if kind < 0.75:
            given = len(function.signature.splitlines()) + rng.randint(1, max(1, len(function.body_lines) - 2))
            return rng.choice(COMPLETE), "\n".join(function.source.splitlines()[:given]), function.source
        return rng.choice(BESIDE), function.source, ""


def head(function: Function) -> str:
    """Signature and docstring."""
    lines = [f"    {line}".rstrip() for line in f'"""{function.docstring}'.splitlines()]
    lines[-1] += '"""' if len(lines) == 1 else '\n    """'
    return "\n".join([function.signature, *lines])
