"""Sends waiting announcements to the console, oldest first, until each is acknowledged, refused or dropped."""

from __future__ import annotations

import logging
import threading
import time

from serving.trace.console import Backoff, ConsoleClient, ConsoleError, Interval
from serving.trace.spool import Announcement, Spool

log = logging.getLogger(__name__)

UNKNOWN_TARGET = 404  # the console's answer to what is about a target that it does not have


class Poster:
    """One thread between the spool and the console."""

    def __init__(self, spool: Spool, client: ConsoleClient, backoff: Backoff | None = None) -> None:
        self.spool = spool
        self.client = client
        self.num_sent = 0
        self.num_failures = 0
        self._backoff = backoff or Backoff()
        self._interval = Interval()
        self._is_down = False
        self._is_unknown = False  # the console has no such target
        self._thread = threading.Thread(target=self._run, name="poster", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, flush_seconds: float = 2.0) -> None:
        """Try for ``flush_seconds`` to empty the spool while the console answers, then end the thread."""
        deadline = time.monotonic() + flush_seconds
        while len(self.spool) and not self._is_down and time.monotonic() < deadline:
            time.sleep(0.02)
        self._interval.stop()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._interval.is_stopped:
            self.spool.rejected.prune_if_due()
            announcement = self.spool.next(timeout=0.2)
            if announcement is None:
                continue
            try:
                self._send(announcement)
            except OSError:
                log.exception("%s cannot be read or moved", announcement.path)
                self.spool.retry_last(announcement)
                self._interval.sleep(self._backoff.failed())

    def _send(self, announcement: Announcement) -> None:
        try:
            self.client.post(f"ingest/{announcement.kind}", announcement.path.read_bytes())
        except FileNotFoundError:
            log.warning("%s was deleted by somebody else", announcement.path)
        except ConsoleError as error:
            self._failed(announcement, error)
            return
        self.spool.acknowledge(announcement)
        self.num_sent += 1
        self._backoff.succeeded()
        if self._is_down:
            log.info("console is back; %d announcements wait", len(self.spool))
            self._is_down = False
        if self._is_unknown:
            log.info("the console has the target now")
            self._is_unknown = False

    def _failed(self, announcement: Announcement, error: ConsoleError) -> None:
        self.num_failures += 1
        if error.status == UNKNOWN_TARGET:
            self._drop(announcement, error)
            return
        if not error.retryable:
            log.error("console refused %s: %s", announcement.path.name, error)
            self.spool.reject(announcement, error.body)
            return
        if not self._is_down:
            log.warning("console does not take announcements; they wait in %s: %s", self.spool.directory, error)
            self._is_down = True
        if error.status >= 500:
            self.spool.retry_last(announcement)  # it may be this one that breaks the console
        else:
            self.spool.retry_first(announcement)
        self._interval.sleep(self._backoff.failed())

    def _drop(self, announcement: Announcement, error: ConsoleError) -> None:
        if not self._is_unknown:
            log.warning("what is recorded before the console has the target is not kept: %s", error)
            self._is_unknown = True
        self.spool.drop(announcement)
