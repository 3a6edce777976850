"""Pages for what the console can't help: an error of its own, and a database that does not answer."""

from __future__ import annotations

import sys

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from aurora_web.request_id import current_request_id

RETRY_SECONDS = 5


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500, called while the error is being handled: 503 where it was the database, else 500."""
    is_outage = isinstance(sys.exc_info()[1], OperationalError | InterfaceError)
    status = 503 if is_outage else 500
    context = {"request_id": current_request_id(), "retry_seconds": RETRY_SECONDS}
    answer = HttpResponse(render_to_string(f"{status}.html", context), status=status)
    if is_outage:
        answer["Retry-After"] = str(RETRY_SECONDS)
    return answer
