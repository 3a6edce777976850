"""Texts that every machine with Python has: functions and documentation of its standard library.

Modules are read one at a time and only when their turn comes: parsing all of them takes seconds, and traffic must start
at once. What was read is kept: when all of it was, less than ten megabytes.
"""

import ast
import os
import random
import re
import sysconfig
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TypeVar

from serving.traffic.domains.base import Split, split_of

SKIPPED_FOLDERS = frozenset(
    "test tests idle_test site-packages dist-packages __pycache__ lib2to3 pydoc_data encodings ensurepip".split()
)
SKIPPED_STEMS = ("this", "antigravity", "_sysconfigdata")
MAX_SOURCE_BYTES = 250_000
FUNCTION_LINES = (4, 40)
MAX_FUNCTION_CHARS = 900
PASSAGE_CHARS = (140, 800)
WINDOW = 120  # texts that are open at a time, so that those of one module do not follow each other

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Unit = TypeVar("Unit")
Text = TypeVar("Text")


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the standard library: its dotted name, and where its source is."""

    name: str
    path: Path

    def tree(self) -> tuple[ast.Module, list[str]]:
        """Its syntax tree and its lines; nothing of either where it cannot be read or parsed."""
        try:
            source = self.path.read_text(encoding="utf-8")
            return ast.parse(source), source.splitlines()
        except (OSError, SyntaxError, ValueError):
            return ast.Module([], []), []


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the standard library."""

    module: str
    name: str
    source: str  # not indented, without decorators
    signature: str  # its first lines, up to the colon
    docstring: str  # cleaned; "" without one

    @property
    def body_lines(self) -> list[str]:
        return self.source.splitlines()[len(self.signature.splitlines()) :]


@dataclass(frozen=True, slots=True)
class Passage:
    """Paragraphs of documentation, and what they are about."""

    subject: str
    text: str


@lru_cache(maxsize=1)
def modules() -> tuple[Module, ...]:
    """Every pure-Python module of the running interpreter's standard library, tests left out, sorted by name."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS and "-" not in name]
        for file in files:
            path = Path(folder, file)
            if file.endswith(".py") and not file.startswith(SKIPPED_STEMS) and path.stat().st_size <= MAX_SOURCE_BYTES:
                parts = path.relative_to(root).with_suffix("").parts
                found.append(Module(".".join(part for part in parts if part != "__init__"), path))
    return tuple(sorted((module for module in found if module.name), key=lambda module: module.name))


@lru_cache(maxsize=1)
def topics() -> dict[str, str]:
    """The language reference as `help()` has it, by topic; empty where Python came without it."""
    try:
        from pydoc_data.topics import topics as found
    except ImportError:
        return {}
    return dict(found)


def functions(rng: random.Random, split: Split) -> Iterator[Function]:
    """Functions of one split (by their source) without end: all of them once, then again in another order."""
    return _mixed(rng, modules(), lambda module: [f for f in functions_of(module) if split_of(f.source) == split])


def passages(rng: random.Random, split: Split) -> Iterator[Passage]:
    """Passages of docstrings and of the language reference of one split (by their text), like `functions`."""
    units: list[Module | str] = [*modules(), *topics()]
    return _mixed(rng, units, lambda unit: [p for p in passages_of(unit) if split_of(p.text) == split])


def _mixed(rng: random.Random, units: Sequence[Unit], read: Callable[[Unit], Iterable[Text]]) -> Iterator[Text]:
    """Texts of all units in an order fixed by `rng`, through a window of open ones. Raises ValueError without any."""
    window: list[Text] = []
    has_any = False
    while True:
        for unit in rng.sample(units, len(units)):
            window += read(unit)
            while len(window) > WINDOW:
                has_any = True
                yield _taken(rng, window)
        if not window and not has_any:
            raise ValueError(f"the standard library in {sysconfig.get_path('stdlib')} has no text to make prompts from")
        while window:  # the end of a pass: each text once before any comes again
            has_any = True
            yield _taken(rng, window)


def _taken(rng: random.Random, window: list[Text]) -> Text:
    place = rng.randrange(len(window))
    window[place], window[-1] = window[-1], window[place]
    return window.pop()


def functions_of(module: Module) -> tuple[Function, ...]:
    """The functions of a module that are long enough to say something about, and short enough for a prompt."""
    return _texts_of(module)[0]


def passages_of(unit: Module | str) -> tuple[Passage, ...]:
    """The passages of a module's docstrings, or of a topic of the language reference."""
    return _texts_of(unit)[1] if isinstance(unit, Module) else _of_topic(unit)


@cache
def _of_topic(topic: str) -> tuple[Passage, ...]:
    return tuple(_cut(f"the Python topic {topic!r}", topics()[topic]))


@cache
def _texts_of(module: Module) -> tuple[tuple[Function, ...], tuple[Passage, ...]]:
    tree, lines = module.tree()
    functions: list[Function] = []
    passages = list(_cut(module.name, ast.get_docstring(tree) or ""))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | FunctionNode):
            docstring = ast.get_docstring(node) or ""
            passages += _cut(f"{module.name}.{node.name}", docstring)
            if isinstance(node, FunctionNode):
                functions += _short_function(module, node, lines, docstring)
    return tuple(functions), tuple(passages)


def _short_function(module: Module, node: FunctionNode, lines: list[str], docstring: str) -> Iterator[Function]:
    if not FUNCTION_LINES[0] <= _num_lines(node) <= FUNCTION_LINES[1] or not _does_something(node):
        return
    source = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    signature = "\n".join(source.splitlines()[: max(1, node.body[0].lineno - node.lineno)])
    if len(source) <= MAX_FUNCTION_CHARS and signature.endswith(":"):  # else a comment lies between head and body
        yield Function(module.name, node.name, source, signature, docstring)


def _num_lines(node: FunctionNode) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def _does_something(node: FunctionNode) -> bool:
    """Whether there are two statements beside the docstring."""
    return len(node.body) - (ast.get_docstring(node, clean=False) is not None) >= 2


def _cut(subject: str, text: str) -> Iterator[Passage]:
    """Neighbouring paragraphs of running English, joined while they are short."""
    joined = ""
    for paragraph in [*_paragraphs(text), ""]:
        if joined and (not is_sentence_like(paragraph) or len(joined) + len(paragraph) > PASSAGE_CHARS[1]):
            if PASSAGE_CHARS[0] <= len(joined) <= PASSAGE_CHARS[1]:
                yield Passage(subject, joined)
            joined = ""
        if is_sentence_like(paragraph):
            joined = f"{joined}\n\n{paragraph}" if joined else paragraph


def _paragraphs(text: str) -> list[str]:
    """Text cut at blank lines, wrapped lines joined."""
    return [" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if block.strip()]


def is_sentence_like(paragraph: str) -> bool:
    """True for running English: a capital first, a stop at the end, mostly letters, no session of an interpreter."""
    if not re.match(r"[A-Z][a-z]* ", paragraph) or not paragraph.endswith((".", ".)", "!", "?")) or ">>>" in paragraph:
        return False
    return sum(char.isalpha() or char in " ,." for char in paragraph) / len(paragraph) > 0.9
