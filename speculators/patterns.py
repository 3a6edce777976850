"""Regular expressions of people, matched in time proportional to pattern times text.

Python's own matcher tries one way after another, and a pattern such as ``(a+)+$`` takes it for ever; rules are applied
to every trace that arrives. This one follows all ways at once (Thompson 1968): no pattern can stop the ingest. It
knows literals, ``.``, classes, groups, ``|``, ``*``, ``+``, ``?`` and ``{m,n}``, and always matches the whole text;
back references and look-around, which need trial and error, are refused with their position.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

MAX_PATTERN = 200
MAX_PROGRAM = 2000  # instructions
MAX_REPEAT = 100
MAX_DEPTH = 20
MAX_EXAMPLES = 50
_ESCAPES = {"n": "\n", "t": "\t"}
_KINDS = {"d": "0-9", "w": "a-zA-Z0-9_", "s": " \t\n\r\f\v"}


class PatternError(ValueError):
    """A pattern that cannot be used; ``position`` counts characters from 1."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} (at character {position})")
        self.position = position


@dataclass(frozen=True, slots=True)
class _Chars:
    """A set of characters."""

    ranges: tuple[tuple[str, str], ...]
    is_negated: bool = False

    def has(self, character: str) -> bool:
        return any(low <= character <= high for low, high in self.ranges) != self.is_negated


@dataclass(frozen=True, slots=True)
class _Step:
    """One instruction: read a character, or go to one or two others without reading."""

    chars: _Chars | None = None
    to: tuple[int, ...] = ()


# A node writes its instructions at the end of a program; what follows it begins right after them.
_Node = Callable[["_Program"], None]
_Edge = tuple[int, int, str]  # from one instruction to another, and what is read on the way


@dataclass(slots=True)
class _Program:
    steps: list[_Step] = field(default_factory=list)

    def add(self, step: _Step) -> int:
        if len(self.steps) >= MAX_PROGRAM:
            raise PatternError("the pattern is too large when its repetitions are written out", 1)
        self.steps.append(step)
        return len(self.steps) - 1


class Pattern:
    """A compiled pattern. Raises PatternError."""

    def __init__(self, text: str) -> None:
        if not 0 < len(text) <= MAX_PATTERN:
            raise PatternError(f"expected 1 to {MAX_PATTERN} characters, got {len(text)}", 1)
        program = _Program()
        _Parser(text).parse()(program)
        self._steps = program.steps

    def matches(self, text: str) -> bool:
        """Whether the whole of ``text`` matches."""
        alive = self._closure({0})
        for character in text:
            alive = self._closure({i + 1 for i in alive if self._reads(i, character)})
            if not alive:
                return False
        return len(self._steps) in alive  # beyond the last instruction: the end

    def examples(self, letters: str) -> tuple[str, ...]:
        """Short texts of these letters that match: each of the pattern's alternatives that has one is in one."""
        edges = [edge for index in range(len(self._steps)) for edge in self._edges(index, letters)]
        before = _shortest(edges, 0)
        after = _shortest([(end, start, letter) for start, end, letter in edges], len(self._steps))  # read backwards
        through = ((s, e, letter) for s, e, letter in edges if s in before and e in after)
        found = {before[start] + letter + after[end][::-1] for start, end, letter in through}
        return tuple(sorted(found, key=lambda text: (len(text), text))[:MAX_EXAMPLES])

    def _edges(self, index: int, letters: str) -> list[_Edge]:
        step = self._steps[index]
        if step.chars is None:
            return [(index, other, "") for other in step.to]
        return [(index, index + 1, letter) for letter in letters if step.chars.has(letter)][:1]

    def _reads(self, index: int, character: str) -> bool:
        chars = self._steps[index].chars if index < len(self._steps) else None
        return chars is not None and chars.has(character)

    def _closure(self, found: set[int]) -> set[int]:
        """``found`` and everything that is reached from there without reading."""
        todo = list(found)
        while todo:
            index = todo.pop()
            for other in self._steps[index].to if index < len(self._steps) else ():
                if other not in found:
                    found.add(other)
                    todo.append(other)
        return found


@functools.lru_cache(maxsize=512)
def compiled(text: str) -> Pattern:
    """A pattern, compiled once. Raises PatternError."""
    return Pattern(text)


@functools.lru_cache(maxsize=512)
def examples(text: str, letters: str) -> tuple[str, ...]:
    """``Pattern.examples``, looked for once. Raises PatternError."""
    return compiled(text).examples(letters)


def _shortest(edges: Sequence[_Edge], start: int) -> dict[int, str]:
    """What is read on the shortest way from ``start`` to each place that can be reached."""
    ways: dict[int, list[tuple[int, str]]] = {}
    for place, other, letter in edges:
        ways.setdefault(place, []).append((other, letter))
    found = {start: ""}
    todo = deque([start])
    while todo:
        place = todo.popleft()
        for other, letter in ways.get(place, ()):
            if other not in found or len(found[place]) + len(letter) < len(found[other]):
                found[other] = found[place] + letter
                todo.append(other) if letter else todo.appendleft(other)
    return found


class _Parser:
    """Recursive descent; every method leaves ``at`` behind what it has read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def parse(self) -> _Node:
        self._skip("^")
        node = self._either()
        if self.at < len(self.text):
            raise PatternError("a ) without its (", self.at + 1)
        return node

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _skip(self, wanted: str) -> bool:
        if self._peek() != wanted:
            return False
        self.at += 1
        return True

    def _either(self) -> _Node:
        node = self._sequence()
        while self._skip("|"):
            node = _choice(node, self._sequence())
        return node

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while (character := self._peek()) and character not in "|)":
            if character == "$" and self.at == len(self.text) - 1:
                self.at += 1
                break
            parts.append(self._repeated())
        return _all(parts)

    def _repeated(self) -> _Node:
        node = self._atom()
        while character := self._peek():
            if character in "*+?":
                self.at += 1
                least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[character]
            elif character == "{":
                least, most = self._bounds()
            else:
                break
            node = _repeat(node, least, most)
        return node

    def _bounds(self) -> tuple[int, int | None]:
        start = self.at + 1
        end = self.text.find("}", self.at)
        body = self.text[self.at + 1 : end] if end >= 0 else ""
        low, comma, high = body.partition(",")
        if not low.isascii() or not low.isdigit() or (high and not (high.isascii() and high.isdigit())):
            raise PatternError("expected {m}, {m,} or {m,n}; write \\{ for a brace", start)
        least, most = int(low), int(high) if high else (None if comma else int(low))
        if max(least, most or 0) > MAX_REPEAT or (most is not None and most < least):
            raise PatternError(f"a repetition goes from 0 to {MAX_REPEAT}, the smaller number first", start)
        self.at = end + 1
        return least, most

    def _atom(self) -> _Node:
        start, character = self.at + 1, self._peek()
        self.at += 1
        if character == "(":
            return self._group(start)
        if character == "[":
            return _read(self._class(start))
        if character == ".":
            return _read(_Chars((), is_negated=True))
        if character == "\\":
            return _read(self._escape(start))
        if character in "*+?{":
            raise PatternError(f"nothing to repeat before {character}; write \\{character} for the character", start)
        if character in "^$":
            raise PatternError(
                f"{character} is possible only at the {'beginning' if character == '^' else 'end'}", start
            )
        return _read(_Chars(((character, character),)))

    def _group(self, start: int) -> _Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise PatternError(f"more than {MAX_DEPTH} groups inside each other", start)
        if self._skip("?") and not self._skip(":"):
            raise PatternError("look-around, flags and named groups are not possible, (?: is", start)
        node = self._either()
        if not self._skip(")"):
            raise PatternError("a ( without its )", start)
        self.depth -= 1
        return node

    def _escape(self, start: int) -> _Chars:
        character = self._peek()
        self.at += 1
        if character.lower() in _KINDS and character:
            return _Chars(_ranges(_KINDS[character.lower()]), is_negated=character.isupper())
        literal = _ESCAPES.get(character, character)
        if not character or (character.isalnum() and character not in _ESCAPES):
            raise PatternError(f"\\{character} is not possible; known are \\d \\w \\s \\n \\t and escaped signs", start)
        return _Chars(((literal, literal),))

    def _class(self, start: int) -> _Chars:
        is_negated = self._skip("^")
        ranges: list[tuple[str, str]] = []
        while (character := self._peek()) != "]" or not ranges:
            if not character:
                raise PatternError("a [ without its ]", start)
            ranges += self._class_item()
        self.at += 1
        return _Chars(tuple(ranges), is_negated)

    def _class_item(self) -> tuple[tuple[str, str], ...]:
        start, low = self.at + 1, self._peek()
        self.at += 1
        if low == "\\":
            found = self._escape(start)
            if found.is_negated:
                raise PatternError("\\D, \\W and \\S are not possible inside [ ]", start)
            return found.ranges
        if self._peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
            high = self.text[self.at + 1]
            self.at += 2
            if high < low:
                raise PatternError(f"the range {low}-{high} is upside down", start)
            return ((low, high),)
        return ((low, low),)


def _ranges(text: str) -> tuple[tuple[str, str], ...]:
    return _Parser(text + "]")._class(1).ranges


def _read(chars: _Chars) -> _Node:
    def write(program: _Program) -> None:
        program.add(_Step(chars=chars))

    return write


def _all(parts: list[_Node]) -> _Node:
    def write(program: _Program) -> None:
        for part in parts:
            part(program)

    return write


def _choice(first: _Node, second: _Node) -> _Node:
    def write(program: _Program) -> None:
        fork = program.add(_Step())
        first(program)
        leave = program.add(_Step())
        program.steps[fork] = _Step(to=(fork + 1, len(program.steps)))
        second(program)
        program.steps[leave] = _Step(to=(len(program.steps),))

    return write


def _repeat(node: _Node, least: int, most: int | None) -> _Node:
    def write(program: _Program) -> None:
        for _ in range(least):
            node(program)
        if most is None:
            fork = program.add(_Step())
            node(program)
            program.add(_Step(to=(fork,)))
            program.steps[fork] = _Step(to=(fork + 1, len(program.steps)))
            return
        forks = []
        for _ in range(most - least):
            forks.append(program.add(_Step()))
            node(program)
        for fork in forks:
            program.steps[fork] = _Step(to=(fork + 1, len(program.steps)))

    return write
