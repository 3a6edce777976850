"""Two transactions at once, on two connections to the real Postgres, in an order that the test chooses."""

import threading
import time

from django.db import connection, transaction

WAIT_SECONDS = 60


class Beside:
    """``work`` on a thread and connection of its own; ``result()`` is what it returned, or raises what it raised."""

    def __init__(self, work):
        self.pid = 0
        self._work, self._found, self._error = work, None, None
        self._connected = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._connected.wait(WAIT_SECONDS)

    def _run(self):
        try:
            connection.ensure_connection()
            self.pid = connection.connection.info.backend_pid
            self._connected.set()
            self._found = self._work()
        except Exception as error:  # noqa: BLE001 - result() raises it
            self._error = error
        finally:
            connection.close()

    def wait_until_blocked(self):
        """Until Postgres says that it waits for a lock."""
        wait_until(lambda: waits_for_lock(self.pid) or not self._thread.is_alive())
        assert self._thread.is_alive(), f"it did not wait, and ended with {self._error or self._found}"

    def result(self):
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._found


def wait_until(is_so):
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def waits_for_lock(pid):
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted)", [pid])
        return cursor.fetchone()[0]


def overtaken(first, second):
    """``second`` comes while ``first`` has not been committed, and waits for it; returns what it did then."""
    with transaction.atomic():
        first()
        later = Beside(second)
        later.wait_until_blocked()
    return later.result()
