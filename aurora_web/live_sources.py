"""What news need on their way to a browser, the broker and the database: does one of them owe an answer?"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from channels.db import database_sync_to_async
from django.db import DatabaseError, connection
from psycopg_pool import PoolTimeout

LATE_SECONDS = 8.0  # an answer that takes longer is not waited for: what is shown is called stale
REST_SECONDS = 4.0  # between two questions to the database, however many hubs ask


class Source:
    """Something that is asked again and again, and answers when it can."""

    def __init__(self) -> None:
        self._owes_since: float | None = None  # the first question without an answer

    def asked(self) -> None:
        if self._owes_since is None:
            self._owes_since = time.monotonic()

    def answered(self) -> None:
        self._owes_since = None

    @property
    def is_silent(self) -> bool:
        return self._owes_since is not None and time.monotonic() - self._owes_since > LATE_SECONDS


class Database(Source):
    """The database as the pages reach it, through the pool; asked once for all hubs of an event loop."""

    def __init__(self) -> None:
        super().__init__()
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Begin a question, unless one waits for its answer or was begun a moment ago."""
        now = time.monotonic()
        if (self._asking is not None and not self._asking.done()) or now < self._asked_at + REST_SECONDS:
            return
        self._asked_at = now
        self.asked()
        self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        with suppress(DatabaseError, PoolTimeout):
            # A thread of its own: what else the sockets ask may take long.
            await database_sync_to_async(_question, thread_sensitive=False)()
            self.answered()


def _question() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


_databases: dict[int, Database] = {}


def database_of_loop() -> Database:
    """That of the running event loop."""
    return _databases.setdefault(id(asyncio.get_running_loop()), Database())
