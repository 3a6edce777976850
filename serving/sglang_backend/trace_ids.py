"""What traces are called: as SGLang calls the request, so that who has an answer finds its trace."""

from __future__ import annotations

import re
import uuid

HEX = re.compile(r"[0-9a-f]{32}")
MOST_REMEMBERED = 16_384  # more than a segment holds: within one, a name that comes twice would cost all of its traces


class TraceIds:
    """Ids of traces; used by one thread. Clients may choose what SGLang calls a request, and choose it again."""

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._taken: dict[str, None] = {}  # oldest first

    def of(self, rid: str) -> str:
        """32 hex digits that no trace of late has: those of ``rid`` where it is that."""
        found = rid if HEX.fullmatch(rid) and rid not in self._taken else uuid.uuid4().hex
        self._taken[found] = None
        if len(self._taken) > self._most:
            del self._taken[next(iter(self._taken))]
        return found
