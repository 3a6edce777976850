"""A streamed answer of one replica's public API, as the playground asks for it: the only call that the console makes.

A replica is not trusted with more than its own answer: no redirect is followed, an answer has a largest size and a
longest time, and of an error only the words in OpenAI's shape are repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlsplit

import httpx

CONNECT_SECONDS = 5.0
SILENT_SECONDS = 60.0  # between two chunks; a busy replica lets a request wait before the first one
MOST_SECONDS = 300.0  # for one answer
MOST_BYTES = 8 << 20  # of one answer
MOST_WORDS = 300  # characters of a replica's error


class ReplicaError(RuntimeError):
    """A replica that gave no whole answer; the message says what happened, for a person. ``status`` 0 = not by HTTP."""

    retryable = True

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def is_askable(url: str) -> bool:
    """Whether an address that a replica reported can be asked at all."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
    except ValueError:
        return False


async def chunks(url: str, body: dict[str, Any], headers: dict[str, str]) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON chunks of a stream up to its [DONE]. Raises ReplicaError.

    Whoever stops listening closes this iterator, and with it the connection: the replica then cancels the request.
    """
    timeout = httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
    try:
        async with (
            httpx.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False) as http,
            http.stream("POST", url, json=body, headers={**headers, "accept-encoding": "identity"}) as answer,
        ):
            if answer.status_code != 200:
                raise ReplicaError(await _refusal(answer), answer.status_code)
            async for line in _lines(answer):
                if line == b"data: [DONE]":
                    return
                if line.startswith(b"data:"):
                    yield _chunk(line.removeprefix(b"data:"))
    except httpx.ConnectError as error:
        raise ReplicaError(f"it does not answer at {url}: {error}") from error
    except httpx.TimeoutException as error:
        raise ReplicaError(f"it said nothing for {_seconds(error):.0f} seconds") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ReplicaError(f"the connection broke: {error or type(error).__name__}") from error
    raise ReplicaError("its answer ended before its end mark")


async def _pieces(answer: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Raises ReplicaError for an answer that is too large or takes too long."""
    started_at, size = time.monotonic(), 0
    async for piece in answer.aiter_raw():
        size += len(piece)
        if size > MOST_BYTES:
            raise ReplicaError(f"its answer is larger than {MOST_BYTES >> 20} MiB")
        if time.monotonic() - started_at > MOST_SECONDS:
            raise ReplicaError(f"its answer takes longer than {MOST_SECONDS:.0f} seconds")
        yield piece


async def _lines(answer: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Raises ReplicaError."""
    rest = bytearray()
    async for piece in _pieces(answer):
        rest += piece
        if b"\n" in piece:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                yield bytes(line.strip())


def _chunk(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ReplicaError(f"it sent a chunk that is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ReplicaError(f"it sent a chunk that is no object but {type(found).__name__}")
    if "error" in found:
        raise ReplicaError(_words(found) or "it failed without saying why")
    return found


async def _refusal(answer: httpx.Response) -> str:
    status = f"it answered {answer.status_code}"
    if answer.is_redirect:
        return f"{status}, a redirect, which is not followed"
    try:
        words = _words(json.loads(b"".join([piece async for piece in _pieces(answer)])))
    except ReplicaError as error:
        return f"{status}, and {error}"
    except ValueError:
        words = ""
    return f"{status}: {words}" if words else status


def _words(body: Any) -> str:
    """The message of an error in OpenAI's shape, or in SGLang's flat one; "" where there is none."""
    error = body.get("error", body) if isinstance(body, dict) else body
    message = error.get("message") if isinstance(error, dict) else error
    return message[:MOST_WORDS] if isinstance(message, str) else ""


def _seconds(error: httpx.TimeoutException) -> float:
    return CONNECT_SECONDS if isinstance(error, httpx.ConnectTimeout) else SILENT_SECONDS
