"""What the rules for names make of names, now and at a moment before, and which names a change takes from a domain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q

from aurora_web.registry.models import Target
from aurora_web.traces.domains import in_order
from aurora_web.traces.models import DomainRule
from speculators.domain_names import CLIENTS_NAME, LETTERS, PREFIX, REGEX, fits, resolver
from speculators.patterns import examples

# What may follow a prefix, so that other rules which fit some of its names are seen.
ENDINGS = ("", "a", "z", "0", "_a", "-0", ".a")


class Naming:
    """Rules in the order in which they are tried."""

    def __init__(self, rules: Sequence[DomainRule]) -> None:
        self.rules = rules
        self.kept_as = resolver(rules)
        self.given = {rule.domain for rule in rules}
        self.says = [_said(rule) for rule in rules]
        self.said = frozenset(self.says)

    def rule_of(self, name: str) -> DomainRule | None:
        """The rule that a name is kept by; None = it stays as it is."""
        return next((rule for rule in self.rules if fits(rule, name)), None)

    def renamed(self, domain: str) -> str:
        """What this name is kept as, where no request is ever kept by it; "" = one may be."""
        kept_as = self.kept_as(domain)
        return kept_as if kept_as != domain and domain not in self.given else ""


@dataclass(frozen=True, slots=True)
class Loss:
    """A name that was kept as a domain and is not any more."""

    kept_as: str  # now
    lost_by: DomainRule | None  # the rule that had given the domain; None = clients call it so themselves
    is_ended: bool  # that rule, and no other says the same
    taken_by: DomainRule | None  # the rule that it is kept by now; None = it stays as it is


def loss(domain: str, before: Naming, after: Naming) -> Loss | None:
    """A name that one set of rules keeps as a domain and a later one does not; None where there is none.

    Asked are names that rules are about: of a prefix some, of an expression an example of each of its alternatives.
    """
    if before.says == after.says:
        return None
    about = [rule for rule in before.rules if rule.domain == domain]
    about += [rule for rule in after.rules if _said(rule) not in before.said]
    for name in (domain, *(name for rule in about for name in _names_of(rule))):
        if CLIENTS_NAME.fullmatch(name) and before.kept_as(name) == domain and after.kept_as(name) != domain:
            rule = before.rule_of(name)
            is_ended = rule is not None and _said(rule) not in after.said
            return Loss(after.kept_as(name), rule, is_ended, after.rule_of(name))
    return None


class NamingHistory:
    """The rules of a target, read once: those that hold, and those that held at any moment since ``since``."""

    def __init__(self, target: Target, since: datetime) -> None:
        rules = DomainRule.objects.filter(Q(ended_at=None) | Q(ended_at__gt=since), target=target)
        self._rules = in_order(rules)
        self._known: dict[tuple[int, ...], Naming] = {}
        self.now = self._of([rule for rule in self._rules if rule.ended_at is None])

    def at(self, moment: datetime) -> Naming:
        """The rules that held at a moment, which is not before ``since``."""
        held = (rule for rule in self._rules if rule.at <= moment)
        return self._of([rule for rule in held if rule.ended_at is None or rule.ended_at > moment])

    def _of(self, rules: list[DomainRule]) -> Naming:
        """What it was asked once, it remembers: many pins are of the same time."""
        key = tuple(rule.pk for rule in rules)
        if key not in self._known:
            self._known[key] = Naming(rules)
        return self._known[key]


def _said(rule: DomainRule) -> tuple[str, str, str]:
    """What a rule says, whoever made it when."""
    return rule.kind, rule.pattern, rule.domain


def _names_of(rule: DomainRule) -> Iterator[str]:
    """Names that a rule is about."""
    if rule.kind == REGEX:
        yield from examples(rule.pattern, LETTERS)
    else:
        yield from (rule.pattern + end for end in (ENDINGS if rule.kind == PREFIX else ("",)))
