"""``Idempotency-Key``: a POST of the API that is sent again is answered again, and not done again.

The key's row and everything that the request writes commit together: a second request with the same key waits on the
row until the first one has committed, and then gets its answer; after a crash neither is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import IntegrityError, OperationalError, connection, transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from psycopg_pool import PoolTimeout

from aurora_web.accounts.auth import principal_of
from aurora_web.accounts.models import IdempotentAnswer
from aurora_web.problems import API_PREFIX, Problem, problem_response

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
KEPT = timedelta(hours=24)
WAIT_MS = 5000  # for the first request with the same key
MAX_LENGTH = 200


class _Undo(Exception):
    """Carries an answer out of a transaction that must not be kept."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__("not kept")
        self.response = response


class IdempotencyMiddleware:
    """Acts on POSTs under /api/v1 with the header only; must come after authentication."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        key = request.headers.get(HEADER)
        if key is None or request.method != "POST" or not request.path.startswith(f"{API_PREFIX}/"):
            return self.get_response(request)
        if not 1 <= len(key) <= MAX_LENGTH or not key.isascii() or not key.isprintable():
            return problem_response(
                422, f"{HEADER} is {key!r:.80}, expected 1 to {MAX_LENGTH} printable ASCII characters"
            )
        try:
            principal = principal_of(request)
            # Who lost a role since must not get the answer that the role gave.
            caller = hashlib.sha256(f"{principal.name}\n{sorted(principal.scopes)}".encode()).hexdigest()
            with transaction.atomic():
                return self._answer(request, caller, key)
        except Problem as problem:
            return problem_response(problem.status, problem.detail)
        except _Undo as undone:
            return undone.response
        except (OperationalError, PoolTimeout) as error:
            return _unavailable(error, key)

    def _answer(self, request: HttpRequest, caller: str, key: str) -> HttpResponse:
        asked = hashlib.sha256(b"\n".join([request.get_full_path().encode(), request.body])).hexdigest()
        row = _claim(caller, key, asked)
        if row is None:
            return _again(IdempotentAnswer.objects.get(caller=caller, key=key), asked)
        response = self.get_response(request)
        if response.status_code >= 500 or response.status_code in (401, 403, 409) or connection.needs_rollback:
            raise _Undo(response)  # the same request may succeed later
        row.status = response.status_code
        row.content_type = response.headers.get("Content-Type", "")
        row.is_secret = "no-store" in response.headers.get("Cache-Control", "")
        row.body = b"" if row.is_secret else bytes(response.content)
        row.save(update_fields=["status", "content_type", "is_secret", "body"])
        return response


def _unavailable(error: Exception, key: str) -> HttpResponse:
    if getattr(error.__cause__, "sqlstate", "") != "55P03":  # lock_not_available
        return problem_response(503, "the database is not available; try again")
    busy = problem_response(409, f"a request with the {HEADER} {key!r} is still running: send it again later")
    busy["Retry-After"] = "2"
    return busy


def _claim(caller: str, key: str, asked: str) -> IdempotentAnswer | None:
    """A fresh row, or None when there is one already; waits while another request holds it."""
    IdempotentAnswer.objects.filter(caller=caller, key=key, created_at__lt=timezone.now() - KEPT).delete()
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {WAIT_MS}")
    try:
        with transaction.atomic():
            row = IdempotentAnswer.objects.create(caller=caller, key=key, asked=asked)
    except IntegrityError:
        return None
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = DEFAULT")
    return row


def _again(row: IdempotentAnswer, asked: str) -> HttpResponse:
    if row.asked != asked:
        return problem_response(422, f"the {HEADER} {row.key!r} was used with another address or body: take a new one")
    if row.is_secret:
        return problem_response(409, "this was done; its answer held a secret, which is shown only once")
    response = HttpResponse(bytes(row.body), status=row.status, content_type=row.content_type)
    response[REPLAYED] = "true"
    return response


def forget(now: datetime) -> int:
    """Delete answers older than KEPT; returns how many."""
    return IdempotentAnswer.objects.filter(created_at__lt=now - KEPT).delete()[0]
