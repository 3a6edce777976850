"""What a restart serves while the console is away."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from serving.trace.spool import KeptFile
from speculators.records import DesiredState

log = logging.getLogger(__name__)


class DesiredFile:
    """The last desired state that served well, on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = KeptFile(path)

    def read(self) -> DesiredState | None:
        """None when there is none, or it cannot be read: then the console is asked."""
        try:
            return DesiredState.from_json(json.loads(self._file.read()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s is not usable, waiting for the console instead: %s", self.path, error)
            return None

    def write(self, desired: DesiredState | None) -> None:
        """None = nothing served well. What a full disk refuses is written by a later ``catch_up``."""
        if desired is None:
            self._file.remove()
        else:
            self._file.write(json.dumps(desired.to_json()).encode())

    def catch_up(self) -> None:
        self._file.catch_up()
