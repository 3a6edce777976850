"""The end of a process that has asked the database: the pool's threads stop before the interpreter does."""

from __future__ import annotations

import atexit

from django.db import connections
from django.db.backends.postgresql.base import DatabaseWrapper


def close_at_exit() -> None:
    """The pool's threads are daemons: one that wakes while the interpreter ends can abort the process (signal 6)."""
    atexit.register(_close)


def _close() -> None:
    for connection in connections.all(initialized_only=True):
        if isinstance(connection, DatabaseWrapper):
            connection.close()
            connection.close_pool()
