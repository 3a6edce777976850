"""RESULTS.md: a part for each benchmark, between two marks, written from what it measured.

    python -m tests.bench.results FILE ...

writes the parts of records that are kept in tests/bench/output, without measuring again.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.figures import SECTIONS, Facts

RESULTS = Path(__file__).with_name("RESULTS.md")
REPO = Path(__file__).resolve().parents[2]
HEAD = ["what", "at least", "aim", "measured", ""]


@dataclass(frozen=True, slots=True)
class Record:
    """What one benchmark found, and on what."""

    name: str
    command: str
    commit: str
    date: str
    machine: str
    facts: Facts

    def keep(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def table(rows: list[list[str]]) -> list[str]:
    """A header and its rows in Markdown."""
    head, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return [head, "|" + "---|" * len(rows[0]), *rest]


def rendered(record: Record) -> str:
    """The part of one benchmark, without its marks."""
    section = SECTIONS[record.name](record.facts)
    lines = [f"## {section.title}", "", f"`{record.command}`, {record.date}, commit {record.commit}, {record.machine}"]
    tables = [[HEAD, *(figure.row() for figure in section.figures)]] if section.figures else []
    for rows in [*tables, *section.tables]:
        lines += ["", *table(rows)]
    return "\n".join(lines)


def put(text: str, name: str, part: str) -> str:
    """``text`` with this part between its marks; at the end where it has none yet."""
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    marked = f"{begin}\n{part}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: marked, text)
    return f"{text.rstrip()}\n\n{marked}\n"


def write(record: Record, path: Path = RESULTS) -> None:
    """Put one benchmark's part into the file."""
    path.write_text(put(path.read_text(encoding="utf-8"), record.name, rendered(record)), encoding="utf-8")


def main() -> None:
    for name in sys.argv[1:]:
        write(Record(**json.loads(Path(name).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
