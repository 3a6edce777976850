"""Domain `python_code`: continue real Python source, from the standard library of the running interpreter.

A module is in one split as a whole (hash of its name). Where the interpreter is not the one that the target was
trained with (3.11), a held-out module may share text with a trained one that was renamed since.
"""

import random
from collections.abc import Iterator

from serving.traffic.domains.base import Domain, Prompt, Split
from serving.traffic.domains.stdlib_text import Module, modules_in

STARTS = ("def ", "class ", "async def ", "if ", "for ", "while ", "try:", "return ", "with ", "@", "self.", "import ")
PROMPT_LINES = (5, 14)
MAX_PROMPT_CHARS = 420
REFERENCE_CHARS = 600


class PythonCode(Domain):
    """Real code, cut at a line that starts a statement; the prompt is the lines before the cut."""

    name = "python_code"

    def prompts(self, seed: int, split: Split = "train") -> Iterator[Prompt]:
        """Yield every possible cut once per pass, in an order fixed by `seed`; later passes use other lengths."""
        rng = random.Random(f"{self.name}:{split}:{seed}")
        seen: set[str] = set()
        modules = modules_in(split)
        while True:
            for module in rng.sample(modules, len(modules)):
                prompt = self._cut(module, rng)
                if prompt and prompt.text not in seen:
                    seen.add(prompt.text)
                    yield prompt

    def _cut(self, module: Module, rng: random.Random) -> Prompt | None:
        lines = module.source().splitlines(keepends=True)
        if len(lines) < PROMPT_LINES[1] * 2:
            return None
        cut = rng.randrange(PROMPT_LINES[1], len(lines) - 4)
        while cut < len(lines) - 4 and not lines[cut].lstrip().startswith(STARTS):
            cut += 1
        text = "".join(lines[cut - rng.randint(*PROMPT_LINES) : cut + 1])[-MAX_PROMPT_CHARS:].rstrip("\n")
        text = text if text.startswith((" ", "\t")) or "\n" not in text else text[text.index("\n") + 1 :]
        after = "".join(lines[cut + 1 : cut + 40])[:REFERENCE_CHARS]
        return Prompt(self.name, text, "\n" + after) if len(text) > 120 else None
