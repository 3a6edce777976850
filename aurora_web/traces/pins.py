"""Pins: what a person has fixed for one domain of a target, instead of what engine and trainer would do by themselves.

Every change is a row with the next revision; replicas are told all pins with their next report and say which revision
they run (rollouts/obedience.py). Pins name domains as the console knows them: the rules for names go with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.db.models import Max

from aurora_web import live
from aurora_web.accounts.services import record
from aurora_web.locks import lock_row
from aurora_web.registry.models import Target
from aurora_web.registry.sendable import SENDABLE
from aurora_web.traces.codec import text
from aurora_web.traces.domains import active_rules
from aurora_web.traces.models import DomainRule, PinChange, pin_words
from speculators.domain_names import CLIENTS_NAME, resolver
from speculators.records import DomainPin, DomainPins, NameRule, RecordError

MAX_LOOKAHEAD = 8
MAX_PINS = 200


class PinError(ValueError):
    """A pin that cannot be set; ``field`` names what is wrong with it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class PinChanged(RuntimeError):
    """Somebody else changed the pin first."""


def held(target: Target) -> dict[str, PinChange]:
    """What is pinned now, by domain."""
    newest = PinChange.objects.filter(target=target).order_by("domain", "-revision").distinct("domain")
    return {change.domain: change for change in newest if change.pin.kinds}


def newest_of(target: Target, domain: str) -> PinChange | None:
    """The last change of a domain's pin, whatever it did; None = never pinned."""
    return PinChange.objects.filter(target=target, domain=domain).first()


def history(target: Target, limit: int) -> list[tuple[PinChange, bool]]:
    """The last changes, newest first, and whether each is the newest of its domain: that one can be undone."""
    seen: set[str] = set()
    changes = []
    for change in PinChange.objects.filter(target=target)[:limit]:
        changes.append((change, change.domain not in seen))
        seen.add(change.domain)
    return changes


def last_revision(target: Target) -> int:
    """The number of the last change; 0 = none ever."""
    return PinChange.objects.filter(target=target).aggregate(n=Max("revision"))["n"] or 0


def desired_pins(target: Target) -> DomainPins:
    """What replicas of a target should obey."""
    pins = tuple(change.pin for change in held(target).values())
    rules = active_rules(target) if pins else ()
    return DomainPins(last_revision(target), pins, tuple(NameRule(r.kind, r.pattern, r.domain) for r in rules))


def untrained_domains(target: Target) -> list[str]:
    """Domains whose traces nobody may train on."""
    return [domain for domain, change in held(target).items() if change.no_training]


@transaction.atomic
def pin(target: Target, wanted: DomainPin, actor: str, reason: str = "", expected: int | None = None) -> PinChange:
    """Fix what ``wanted`` says for its domain, and nothing else; what holds already is no change.

    ``expected``: the revision that the caller saw of this domain (0 = none). Raises PinError, PinChanged.
    """
    before = _lock(target, wanted.domain, expected)
    _check(target, wanted)
    if before is not None and before.pin == wanted:
        return before
    return _change(target, before, wanted, actor, reason, "domain.pin")


@transaction.atomic
def unpin(target: Target, domain: str, actor: str, reason: str = "", expected: int | None = None) -> None:
    """Nothing is fixed for a domain any more. Raises PinError, PinChanged (also when nothing is pinned)."""
    before = _lock(target, domain, expected)
    if before is None or not before.pin.kinds:
        raise PinChanged(f"nothing is pinned for {domain}")
    _change(target, before, DomainPin(domain), actor, reason, "domain.unpin")


@transaction.atomic
def undo(target: Target, revision: int, actor: str) -> PinChange:
    """Bring back what held before one change, if it is still its domain's newest. Raises PinChanged."""
    change = PinChange.objects.filter(target=target, revision=revision).first()
    if change is None:
        raise PinChanged(f"{target.slug} has no change of pins with the revision {revision}")
    _lock(target, change.domain, revision)
    earlier = PinChange.objects.filter(target=target, domain=change.domain, revision__lt=revision).first()
    wanted = earlier.pin if earlier else DomainPin(change.domain)
    reason = f"undo of revision {revision} by {change.actor}"
    return _change(target, change, wanted, actor, reason, "domain.pin_undo", undoes=revision)


def _lock(target: Target, domain: str, expected: int | None) -> PinChange | None:
    """One change of a target's pins at a time; the domain's newest change. Raises PinError, PinChanged."""
    try:
        text(domain, "domain", 100)
    except RecordError as error:
        raise PinError("domain", f"{domain!r:.120} is no domain: expected 1 to 100 characters") from error
    lock_row(Target.objects.all(), pk=target.pk)
    newest = newest_of(target, domain)
    if expected is not None and expected != (newest.revision if newest else 0):
        said = f"{newest.actor} changed it to: {newest.words} (revision {newest.revision})" if newest else "it is gone"
        raise PinChanged(f"the pin of {domain} is not the one that you saw: {said}")
    return newest


def _check(target: Target, wanted: DomainPin) -> None:
    """Raises PinError."""
    if not wanted.kinds:
        raise PinError("lookahead", "nothing would be pinned: expected a lookahead, speculation off or no training")
    most = min(MAX_LOOKAHEAD, target.max_lookahead)
    if wanted.lookahead is not None:
        if wanted.speculation_off:
            raise PinError("lookahead", f"{wanted.lookahead} has no effect while speculation is off: choose one")
        if not 1 <= wanted.lookahead <= most:
            bound = f"1 to {most}" if most else "none: the target's largest lookahead is 0"
            hint = "; to draft nothing, pin speculation off" if wanted.lookahead == 0 else ""
            raise PinError("lookahead", f"{wanted.lookahead} cannot be pinned: expected {bound}{hint}")
    if kept_as := renamed(target, wanted.domain):
        raise PinError(
            "domain", f"{wanted.domain!r:.120} is kept as {kept_as!r:.120} by a rule for names: pin that one"
        )
    if not CLIENTS_NAME.fullmatch(wanted.domain) and wanted.domain not in {r.domain for r in active_rules(target)}:
        raise PinError(
            "domain",
            f"{wanted.domain!r:.120} is the name of no request: expected {SENDABLE}, or a name that a rule gives",
        )
    others = held(target).keys() - {wanted.domain}
    if len(others) >= MAX_PINS:
        raise PinError("domain", f"{target.slug} has pins for {MAX_PINS} domains: end some first")


def renamed(target: Target, domain: str) -> str:
    """What the rules for names turn this name into, where no request is ever kept by it; "" = one may be."""
    rules = active_rules(target)
    kept_as = resolver(rules)(domain)
    return kept_as if kept_as != domain and domain not in {rule.domain for rule in rules} else ""


def strayed(change: PinChange) -> str:
    """Which requests do not meet a pin because of the rules for names, in words; "" = all that it was made for do."""
    rules = active_rules(change.target)
    given = {rule.domain for rule in rules}
    kept_as = resolver(rules)(change.domain)
    if kept_as != change.domain and change.domain in given:
        return f"what clients call {change.domain} themselves is kept as {kept_as} by a rule for names"
    if change.domain in given:
        return ""
    ended = change.target.domain_rules.filter(domain=change.domain, ended_at__gt=change.at).order_by("-ended_at")
    return (
        f"the rule {last} has ended since: its names are not kept as that any more" if (last := ended.first()) else ""
    )


def losing(target: Target, before: Sequence[DomainRule]) -> list[str]:
    """Pins that meet fewer requests under the rules that hold now than under those of ``before``, in sentences."""
    after = active_rules(target)
    was, now, kept = resolver(before), resolver(after), {rule.pk for rule in after}
    found = []
    for domain, change in sorted(held(target).items()):
        gone = next((rule for rule in before if rule.domain == domain and rule.pk not in kept), None)
        if was(domain) == domain and now(domain) != domain:
            found.append(
                f"{change}: what clients call {domain} is kept as {now(domain)}, which this pin does not hold for"
            )
        elif gone is not None:
            found.append(f"{change}: the rule {gone} has ended, and the pin does not hold for its names any more")
    return found


def _change(
    target: Target,
    before: PinChange | None,
    wanted: DomainPin,
    actor: str,
    reason: str,
    action: str,
    undoes: int | None = None,
) -> PinChange:
    change = PinChange.objects.create(
        target=target,
        domain=wanted.domain,
        revision=last_revision(target) + 1,
        lookahead=wanted.lookahead,
        speculation_off=wanted.speculation_off,
        no_training=wanted.no_training,
        undoes=undoes,
        actor=actor,
        reason=reason,
    )
    old = before.pin if before else DomainPin(wanted.domain)
    detail = {"old": _facts(old), "new": _facts(wanted), "revision": change.revision, "words": pin_words(wanted)}
    record(actor, action, wanted.domain, target_slug=target.slug, reason=reason, detail=detail)
    live.publish(target.pk, "pin", {"domain": wanted.domain, "revision": change.revision, "words": change.words})
    return change


def _facts(pin: DomainPin) -> dict[str, Any]:
    return {name: value for name, value in pin.to_json().items() if name != "domain"}
