"""Who obeys a pin: what was pinned beside what the replicas say that they run and can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aurora_web.registry.models import Target
from aurora_web.rollouts.models import Replica
from aurora_web.traces.models import PinChange
from aurora_web.traces.naming import NamingHistory
from aurora_web.traces.pins import held, last_revision, strayed

KIND_WORDS = {"lookahead": "lookahead", "speculation_off": "speculation off", "no_training": "no training"}
TOO_OLD = "its software knows of no pins"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A replica that cannot obey a pin, or a part of it."""

    replica: str
    engine: str
    kinds: tuple[str, ...]  # what it does not obey, in words
    reason: str


@dataclass(frozen=True, slots=True)
class Obedience:
    """One pin beside the replicas that are alive."""

    change: PinChange
    num_alive: int
    obeying: tuple[str, ...]
    lagging: tuple[str, ...]  # they run an older revision
    refusing: tuple[Refusal, ...]
    renamed: str = ""  # what a rule for names makes of the pin's domain since, so that it meets no request any more
    stray: str = ""  # requests that it was made for and does not meet, in words

    @property
    def is_whole(self) -> bool:
        return not self.renamed and not self.stray and 0 < self.num_alive == len(self.obeying)

    @property
    def words(self) -> str:
        """``obeyed by 1 of 2 replicas``"""
        if self.renamed:
            return "meets no request"
        if not self.num_alive:
            return "no replica is alive"
        return f"obeyed by {len(self.obeying)} of {self.num_alive} replica{'s' if self.num_alive > 1 else ''}"


def _refusal(change: PinChange, replica: Replica) -> Refusal | None:
    missing = [kind for kind in change.pin.kinds if kind not in replica.pins_obeyed]
    if replica.pins_revision < 0:
        missing, reason = list(change.pin.kinds), TOO_OLD
    else:
        reason = replica.pins_detail or "it does not say why"
    words = tuple(KIND_WORDS[kind] for kind in missing)
    return Refusal(replica.name, replica.engine, words, reason) if missing else None


def obedience(change: PinChange, replicas: Sequence[Replica], rules: NamingHistory) -> Obedience:
    """Who of these, as far as alive, obeys a pin that holds; replicas and rules are those of its target."""
    alive = [replica for replica in replicas if replica.is_alive]
    refusing = {r.name: found for r in alive if (found := _refusal(change, r)) is not None}
    lagging = [r.name for r in alive if 0 <= r.pins_revision < change.revision and r.name not in refusing]
    obeying = [r.name for r in alive if r.name not in refusing and r.name not in lagging]
    name = rules.now.renamed(change.domain)
    stray = "" if name else strayed(change, rules)
    return Obedience(change, len(alive), tuple(obeying), tuple(lagging), tuple(refusing.values()), name, stray)


@dataclass(frozen=True, slots=True)
class PinBoard:
    """All pins of a target, and how far its replicas are."""

    revision: int
    pins: tuple[Obedience, ...]  # by domain
    num_alive: int
    num_current: int  # replicas that run the last revision

    @property
    def words(self) -> str:
        """``revision 4 is run by 2 of 2 replicas``"""
        if not self.num_alive:
            return f"revision {self.revision}; no replica is alive"
        plural = "s" if self.num_alive > 1 else ""
        return f"revision {self.revision} is run by {self.num_current} of {self.num_alive} replica{plural}"


def board(target: Target) -> PinBoard:
    """The pins of a target beside its replicas."""
    replicas = list(target.replicas.all())
    revision = last_revision(target)
    alive = [replica for replica in replicas if replica.is_alive]
    changes = [change for _, change in sorted(held(target).items())]
    pins: tuple[Obedience, ...] = ()
    if changes:
        rules = NamingHistory(target, min(change.at for change in changes))
        pins = tuple(obedience(change, replicas, rules) for change in changes)
    return PinBoard(revision, pins, len(alive), sum(replica.pins_revision >= revision for replica in alive))


def pin_payload(found: Obedience) -> dict[str, Any]:
    """A pin as the API gives it."""
    change = found.change
    return {
        "domain": change.domain,
        "lookahead": change.lookahead,
        "speculation_off": change.speculation_off,
        "no_training": change.no_training,
        "revision": change.revision,
        "actor": change.actor,
        "reason": change.reason,
        "at": change.at.timestamp(),
        "num_alive": found.num_alive,
        "obeying": list(found.obeying),
        "lagging": list(found.lagging),
        "renamed": found.renamed,
        "stray": found.stray,
        "refusing": [{"replica": r.replica, "kinds": list(r.kinds), "reason": r.reason} for r in found.refusing],
    }
