"""HTTP to the console, with one retry rule: what may succeed later is retried, with growing, jittered waits."""

from __future__ import annotations

import random
import re
import threading
from dataclasses import dataclass, field
from typing import Any

import httpx

RETRYABLE_CLIENT_ERRORS = frozenset({401, 403, 408, 429})  # a token may be mended; the rest is about the payload
CONNECT_SECONDS = 3.0
IN_A_HEADER = re.compile(r"[!-~]*")


class ConsoleError(RuntimeError):
    """The console was not reached, or said no; ``status`` 0 = not reached."""

    def __init__(self, message: str, status: int = 0, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body

    @property
    def retryable(self) -> bool:
        return not 400 <= self.status < 500 or self.status in RETRYABLE_CLIENT_ERRORS


@dataclass(slots=True)
class Backoff:
    """Waits of 0.5, 1, 2, ... seconds up to ``most_seconds``, each cut by a random half at most."""

    most_seconds: float = 30.0
    _failures: int = field(default=0)

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> float:
        """Seconds to wait now."""
        wait = min(self.most_seconds, 0.5 * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return wait * random.uniform(0.5, 1.0)


def secret(source: str, value: str) -> str:
    """A token as it can be sent, without the line end that files of secrets give it. ``source``: where it is set.

    Raises ValueError, which does not show it: httpx would, with the whole header, in whatever log its error comes to.
    """
    found = value.strip()
    if not IN_A_HEADER.fullmatch(found):
        raise ValueError(
            f"{source}: must be one line of printable ASCII without a space in it (its value is not shown)"
        )
    return found


class ConsoleClient:
    """Calls ``<console>/api/v1/...`` over kept-alive connections. Thread-safe. Raises ValueError as ``secret`` does."""

    def __init__(self, console_url: str, token: str, timeout_seconds: float = 15.0) -> None:
        token = secret("the console's token", token)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            base_url=f"{console_url.rstrip('/')}/api/v1/",
            headers=headers,
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            trust_env=False,  # a proxy of the machine must not stand between the two
        )

    def post(self, path: str, body: bytes) -> Any:
        """POST JSON and return the decoded answer. Raises ConsoleError."""
        return self._call("POST", path, content=body, headers={"content-type": "application/json"})

    def get(self, path: str) -> Any:
        """GET and return the decoded answer. Raises ConsoleError."""
        return self._call("GET", path)

    def close(self) -> None:
        self._http.close()

    def _call(self, method: str, path: str, **given: Any) -> Any:
        try:
            answer = self._http.request(method, path, **given)
        except httpx.HTTPError as error:
            raise ConsoleError(f"{method} {path}: {type(error).__name__}: {error}") from error
        if not answer.is_success:
            said = answer.text[:300]
            raise ConsoleError(
                f"{method} {path}: HTTP {answer.status_code}: {said}", answer.status_code, answer.content
            )
        try:
            return answer.json()
        except ValueError as error:
            raise ConsoleError(f"{method} {path}: the answer is no JSON: {answer.text[:100]!r}", 502) from error


class Interval:
    """A sleep of one thread, which a stop, or news, ends at once."""

    def __init__(self) -> None:
        self._woken = threading.Event()
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        return self._is_stopped

    def stop(self) -> None:
        self._is_stopped = True
        self._woken.set()

    def wake(self) -> None:
        """End the sleep, or the next one."""
        self._woken.set()

    def sleep(self, seconds: float) -> bool:
        """Wait; False when stopped."""
        if not self._is_stopped:
            self._woken.wait(seconds)
            self._woken.clear()
        return not self._is_stopped
