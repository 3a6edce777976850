"""What a client calls a domain -> what figures, training and pins know it by; the same at ingest and on replicas.

One pass over rules in the order in which they are tried; the first that fits wins. A name that no rule fits stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from speculators.patterns import compiled

CLIENTS_NAME = re.compile(r"[a-z0-9_.-]{1,64}")  # what a request may call its domain; a rule gives any other name
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789_.-"  # of such a name
EXACT, PREFIX, REGEX = "exact", "prefix", "regex"
MAX_KNOWN = 10_000  # names whose answer is remembered; clients choose them


class Rule(Protocol):
    """speculators.records.NameRule, or the console's row."""

    @property
    def kind(self) -> str: ...
    @property
    def pattern(self) -> str: ...
    @property
    def domain(self) -> str: ...


def fits(rule: Rule, name: str) -> bool:
    """Whether a rule is about this name. Raises ValueError for a rule that cannot be used."""
    if rule.kind == EXACT:
        return name == rule.pattern
    if rule.kind == PREFIX:
        return name.startswith(rule.pattern)
    if rule.kind == REGEX:
        return compiled(rule.pattern).matches(name)
    raise ValueError(f"kind {rule.kind!r:.40} of a rule for names: expected {EXACT}, {PREFIX} or {REGEX}")


def resolver(rules: Sequence[Rule]) -> Callable[[str], str]:
    """The function from a client's name to ours; it remembers what it was asked."""
    if not rules:
        return str
    known: dict[str, str] = {}

    def domain_of(name: str) -> str:
        found = known.get(name)
        if found is None:
            found = next((rule.domain for rule in rules if fits(rule, name)), name)
            if len(known) >= MAX_KNOWN:
                known.clear()
            known[name] = found
        return found

    return domain_of
