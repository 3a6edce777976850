"""The replica's side of pins: takes up what the console desires, and keeps it for a restart without the console."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from serving.engine.pins import Pins
from serving.trace.spool import KeptFile
from speculators.records import DomainPins

log = logging.getLogger(__name__)


class PinFollower:
    """``pins`` of the engine, the file beside them, and why the newest ones are not held."""

    def __init__(self, pins: Pins, file: Path) -> None:
        self.pins = pins
        self.file = file
        self._kept = KeptFile(file)
        self._refused: DomainPins | None = None
        self._problem = ""

    @property
    def detail(self) -> str:
        """For the report: what went wrong, else what this engine cannot obey."""
        return self._problem or self.pins.detail

    def restore(self) -> None:
        """Hold what held before the restart; without a usable file, nothing until the console answers."""
        try:
            self.pins.replace(DomainPins.from_json(json.loads(self._kept.read())))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.warning("%s is not usable, waiting for the console instead: %s", self.file, error)

    def follow(self, desired: DomainPins | None) -> None:
        """Take up new pins between two polls; what cannot be used is reported, and the old ones go on."""
        self._kept.catch_up()
        if desired is None or desired in (self.pins.desired, self._refused):
            return
        try:
            self.pins.replace(desired)
        except ValueError as error:
            log.error("pins of revision %d are not obeyed: %s", desired.revision, error)
            self._refused, self._problem = desired, f"revision {desired.revision} was refused: {error}"
            return
        self._refused, self._problem = None, ""
        log.info("pins of revision %d hold: %d domains", desired.revision, len(desired.pins))
        self._kept.write(json.dumps(desired.to_json()).encode())
