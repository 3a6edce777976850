"""The duties of a beat, each apart from the others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


@contextmanager
def apart(duty: str) -> Iterator[None]:
    """What raises in ``duty`` is logged, and keeps no other from being done: the next beat tries again."""
    try:
        yield
    except Exception:  # a beat's duties have no other top loop
        log.exception("%s", duty)
