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
from aurora_web.traces.naming import Naming, NamingHistory, loss
from speculators.domain_names import CLIENTS_NAME
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
    """Fix what ``wanted`` says for its domain, and nothing else; what holds already, for all requests that it was
    made for, is no change.

    ``expected``: the revision that the caller saw of this domain (0 = none). Raises PinError, PinChanged.
    """
    before = _lock(target, wanted.domain, expected)
    _check(target, wanted)
    if before is not None and before.pin == wanted and not strayed(before, NamingHistory(target, before.at)):
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
    rules = Naming(active_rules(target))
    if kept_as := rules.renamed(wanted.domain):
        raise PinError(
            "domain", f"{wanted.domain!r:.120} is kept as {kept_as!r:.120} by a rule for names: pin that one"
        )
    if not CLIENTS_NAME.fullmatch(wanted.domain) and wanted.domain not in rules.given:
        raise PinError(
            "domain",
            f"{wanted.domain!r:.120} is the name of no request: expected {SENDABLE}, or a name that a rule gives",
        )
    others = held(target).keys() - {wanted.domain}
    if len(others) >= MAX_PINS:
        raise PinError("domain", f"{target.slug} has pins for {MAX_PINS} domains: end some first")


def strayed(change: PinChange, rules: NamingHistory) -> str:
    """Which requests met a pin when it was made and do not meet it now, by the rules for names; "" = all do."""
    lost = loss(change.domain, rules.at(change.at), rules.now)
    if lost is None:
        return ""
    if lost.lost_by is None:
        return f"what clients call {change.domain} themselves is kept as {lost.kept_as} by a rule for names"
    if lost.is_ended:
        return f"the rule {lost.lost_by} has ended since: its names are not kept as that any more"
    return f"the rule {lost.taken_by} takes names from the rule {lost.lost_by} since"


def losing(target: Target, before: Sequence[DomainRule]) -> list[str]:
    """Pins that some requests met under the rules of ``before`` and do not meet under those of now, in sentences."""
    was, now = Naming(before), Naming(active_rules(target))
    found = []
    for domain, change in sorted(held(target).items()):
        lost = loss(domain, was, now)
        if lost is None:
            continue
        if lost.lost_by is None:
            words = f"what clients call {domain} is kept as {lost.kept_as}, which this pin does not hold for"
        elif lost.is_ended:
            words = f"the rule {lost.lost_by} has ended, and the pin does not hold for its names any more"
        else:
            words = f"the rule {lost.taken_by} takes names from it, which this pin does not hold for"
        found.append(f"{change}: {words}")
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
