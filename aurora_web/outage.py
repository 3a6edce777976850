"""Pages for what the console can't help: an error of its own, and a database that does not answer."""

from __future__ import annotations

import sys
import time

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from aurora_web.request_id import current_request_id

RETRY_SECONDS = 5

_in_order_since = time.monotonic()  # the start of this process, or the last time that the database did not answer


def note() -> None:
    """The database did not answer just now: what should have arrived could not."""
    global _in_order_since
    _in_order_since = time.monotonic()


def seconds_in_order() -> float:
    """How long this process has been there and has had the database, as far as anybody has asked it for something."""
    return time.monotonic() - _in_order_since


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500, called while the error is being handled: 503 where it was the database, else 500."""
    is_outage = isinstance(sys.exc_info()[1], OperationalError | InterfaceError)
    status = 503 if is_outage else 500
    context = {"request_id": current_request_id(), "retry_seconds": RETRY_SECONDS}
    answer = HttpResponse(render_to_string(f"{status}.html", context), status=status)
    if is_outage:
        note()
        answer["Retry-After"] = str(RETRY_SECONDS)
    return answer
