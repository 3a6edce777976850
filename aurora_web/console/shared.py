"""What many people watch is rendered once: answers that are good for a second, for all who may see the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone

from aurora_web.accounts.access import user_of

# Of a target's page (parts.py): what says the same to everybody of one role and one time zone. The canary's says to an
# operator what the policy lets just this one do, and is not shared then: it always has a form, to abort.
SHARED_PARTS = frozenset(
    {"figures", "tables", "charts-table", "events-part", "canary", "connection", "replicas", "standing", "alerts"}
)
MOST_ENTRIES = 1000
WAIT_SECONDS = 10.0  # for another thread's rendering; then everybody renders alone
CSRF_FIELD = b"csrfmiddlewaretoken"  # belongs to one session


def seen_alike(request: HttpRequest, part: str = "") -> Hashable:
    """A key for what everybody of one role and one time zone sees at this address, or in this part of it."""
    given = tuple((name, *values) for name, values in sorted(request.GET.lists()) if name != "part")
    return (request.path, part, given, user_of(request).scopes, timezone.get_current_timezone_name())


@dataclass(slots=True)
class _Entry:
    began: float
    done: threading.Event = field(default_factory=threading.Event)
    body: bytes | None = None  # None = not to be shared, or not made


class Shelf:
    """Bodies by key, each made by one caller while the others wait for it, kept for settings.SHARED_SECONDS."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[Hashable, _Entry] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """What ``make`` gave for this key a moment ago, or gives now; a body with a form is never shared."""
        entry, is_maker = self._take(key)
        if not is_maker:
            entry.done.wait(WAIT_SECONDS)
            return make() if entry.body is None else entry.body
        try:
            body = make()
            entry.body = None if CSRF_FIELD in body else body
        finally:
            entry.done.set()
        return body

    def _take(self, key: Hashable) -> tuple[_Entry, bool]:
        """The entry to use, and whether the caller is to fill it. Age counts from when the making began."""
        with self._lock:
            now = self._clock()
            oldest = now - settings.SHARED_SECONDS
            entry = self._entries.get(key)
            if entry is not None and entry.began > oldest:
                return entry, False
            if len(self._entries) >= MOST_ENTRIES:
                self._entries = {k: e for k, e in self._entries.items() if e.began > oldest}
            entry = self._entries[key] = _Entry(now)
            return entry, True


shelf = Shelf()
