"""The Python standard library on this machine as text: modules, their source, their docstrings."""

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from serving.traffic.domains.base import Split, split_of

SKIPPED_FOLDERS = frozenset({"test", "tests", "site-packages", "dist-packages", "idle_test", "__pycache__", "lib2to3"})
SKIPPED_STEMS = frozenset({"pydoc_data", "this", "antigravity"})
MAX_SOURCE_BYTES = 400_000


@dataclass(frozen=True, slots=True)
class Module:
    """A standard library module: dotted name (the split key) and where its source is."""

    name: str
    path: Path

    @property
    def split(self) -> Split:
        return split_of(self.name)

    def source(self) -> str:
        """The module's text, or an empty string where it is not UTF-8."""
        try:
            return self.path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return ""


@lru_cache(maxsize=1)
def stdlib_modules() -> tuple[Module, ...]:
    """Every pure-Python module of the running interpreter's standard library, tests excluded, sorted by name."""
    root = Path(sysconfig.get_path("stdlib"))
    found = (_module(root, path) for path in root.rglob("*.py"))
    return tuple(sorted((module for module in found if module), key=lambda module: module.name))


def _module(root: Path, path: Path) -> Module | None:
    parts = path.relative_to(root).with_suffix("").parts
    if SKIPPED_FOLDERS & set(parts) or SKIPPED_STEMS & set(parts) or parts[0].startswith("_sysconfigdata"):
        return None
    if "encodings" in parts or path.stat().st_size > MAX_SOURCE_BYTES:
        return None
    return Module(".".join(part for part in parts if part != "__init__"), path)


def modules_in(split: Split) -> list[Module]:
    """The standard library modules of one split."""
    return [module for module in stdlib_modules() if module.split == split]


def docstrings(module: Module) -> Iterator[str]:
    """Yield the cleaned docstrings of a module, its classes and functions; nothing where it does not parse."""
    try:
        tree = ast.parse(module.source())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
