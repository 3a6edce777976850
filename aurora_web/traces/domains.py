"""Rules for the names of domains: what clients say -> what figures, versions and training are kept by.

The first that fits (speculators/domain_names.py): exact rules, then the longest prefix, then regular expressions, the
oldest first. A name that no rule fits stays as it is. Rules hold for what arrives from then on; what was stored keeps
its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from aurora_web.accounts.services import record
from aurora_web.locks import lock_row
from aurora_web.registry.models import Target
from aurora_web.registry.sendable import SENDABLE
from aurora_web.traces.codec import text
from aurora_web.traces.models import DomainRule, RuleKind
from speculators.domain_names import CLIENTS_NAME, resolver
from speculators.patterns import MAX_PATTERN, PatternError, compiled
from speculators.records import RecordError

MAX_RULES = 200


class RuleError(ValueError):
    """A rule that cannot be used; ``field`` names what is wrong with it, ``position`` where in a pattern (from 1)."""

    def __init__(self, field: str, message: str, position: int | None = None) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
        self.position = position


class RuleEnded(RuntimeError):
    """Somebody else ended the rule first."""


def active_rules(target: Target) -> list[DomainRule]:
    """The rules that hold, in the order in which they are tried."""
    return in_order(DomainRule.objects.filter(target=target, ended_at=None))


def in_order(rules: QuerySet[DomainRule]) -> list[DomainRule]:
    """Rules in the order in which they are tried."""
    order = {RuleKind.EXACT: 0, RuleKind.PREFIX: 1, RuleKind.REGEX: 2}
    old = list(rules.order_by("at", "id"))
    return sorted(old, key=lambda r: (order[RuleKind(r.kind)], -len(r.pattern) if r.kind == RuleKind.PREFIX else 0))


def mapping(target: Target) -> Callable[[str], str]:
    """The function from a client's name to ours; it remembers what it was asked."""
    return resolver(active_rules(target))


@transaction.atomic
def add_rules(
    target: Target, kind: str, patterns: Sequence[str], domain: str, actor: str, reason: str = ""
) -> list[DomainRule]:
    """One rule for each pattern (several = a merge); an active rule for the same pattern ends. Raises RuleError."""
    lock_row(Target.objects.all(), pk=target.pk)  # one change of the rules at a time
    if kind not in RuleKind.values:
        raise RuleError("kind", f"{kind!r:.40} is unknown: expected one of {', '.join(RuleKind.values)}")
    try:
        text(domain, "domain", 100)
    except RecordError as error:
        raise RuleError("domain", f"{domain!r:.120} is no domain: expected 1 to 100 characters") from error
    patterns = list(dict.fromkeys(patterns))
    if not patterns:
        raise RuleError("pattern", "expected at least one name")
    for pattern in patterns:
        _check(kind, pattern)
    return [_add(target, kind, pattern, domain, actor, reason) for pattern in patterns]


def _check(kind: str, pattern: str) -> None:
    if not 0 < len(pattern) <= MAX_PATTERN or "\0" in pattern:
        raise RuleError("pattern", f"{pattern!r:.80} cannot be used: expected 1 to {MAX_PATTERN} characters")
    if kind != RuleKind.REGEX and not CLIENTS_NAME.fullmatch(pattern):
        raise RuleError("pattern", f"{pattern!r:.80} fits no name that a client can send: expected {SENDABLE}")
    if kind == RuleKind.REGEX:
        try:
            compiled(pattern)
        except PatternError as error:
            raise RuleError("pattern", f"{pattern!r:.220} is no regular expression: {error}", error.position) from error


def _add(target: Target, kind: str, pattern: str, domain: str, actor: str, reason: str) -> DomainRule:
    same = DomainRule.objects.filter(target=target, kind=kind, pattern=pattern, ended_at=None)
    replaced = same.values_list("domain", flat=True).first()
    same.update(ended_at=timezone.now(), ended_by=actor)
    if DomainRule.objects.filter(target=target, ended_at=None).count() >= MAX_RULES:
        raise RuleError("pattern", f"{target.slug} has {MAX_RULES} rules: end some first")
    rule = DomainRule.objects.create(
        target=target, kind=kind, pattern=pattern, domain=domain, actor=actor, reason=reason
    )
    detail = {"old": {"domain": replaced}, "new": {"domain": domain}, "kind": kind, "pattern": pattern}
    record(actor, "domain.rule", str(rule)[:200], target_slug=target.slug, reason=reason, detail=detail)
    return rule


@transaction.atomic
def end_rule(rule: DomainRule, actor: str, reason: str = "") -> None:
    """The rule holds no more for what arrives from now on. Raises RuleEnded when it has ended already."""
    if DomainRule.objects.filter(pk=rule.pk, ended_at=None).update(ended_at=timezone.now(), ended_by=actor) != 1:
        raise RuleEnded(f"the rule {rule} has ended already")
    detail = {"old": {"domain": rule.domain}, "new": {"domain": None}, "kind": rule.kind, "pattern": rule.pattern}
    record(actor, "domain.rule_end", str(rule)[:200], target_slug=rule.target.slug, reason=reason, detail=detail)
