"""What people have fixed for single domains, as one engine obeys it: written by the follower, read by engine, recorder
and capture, each on its own thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from serving.engine.config import MAX_LOOKAHEAD
from speculators.domain_names import fits, resolver
from speculators.records import PIN_KINDS, DomainPin, DomainPins

UNPINNED = DomainPin("")


class _Held(NamedTuple):
    desired: DomainPins
    by_domain: dict[str, DomainPin]
    domain_of: Callable[[str], str]


class Pins:
    """The pins that hold; replaced as a whole, so readers need no lock.

    ``obeyed``: those of PIN_KINDS that this engine can obey, ``detail`` why not the others.
    """

    def __init__(self, obeyed: tuple[str, ...] = PIN_KINDS, detail: str = "") -> None:
        self.obeyed = obeyed
        self.detail = detail
        self._held = _Held(DomainPins(), {}, str)

    @property
    def desired(self) -> DomainPins:
        """What was given last."""
        return self._held.desired

    def replace(self, desired: DomainPins) -> None:
        """Hold these from now on. Raises ValueError, and changes nothing, for what cannot be used."""
        for pin in desired.pins:
            if pin.lookahead is not None and not 1 <= pin.lookahead <= MAX_LOOKAHEAD:
                raise ValueError(f"the pin of {pin.domain}: lookahead {pin.lookahead}, expected 1 to {MAX_LOOKAHEAD}")
        for rule in desired.rules:
            fits(rule, "")  # a kind or pattern that cannot be used is refused here, not in a step
        self._held = _Held(desired, {pin.domain: pin for pin in desired.pins}, resolver(desired.rules))

    def of(self, name: str) -> DomainPin:
        """What holds for what a client calls ``name``; UNPINNED where nothing does."""
        held = self._held
        return held.by_domain.get(held.domain_of(name), UNPINNED) if held.by_domain else UNPINNED
