"""The reason that a person gave with a request, for the audit rows of it that have none of their own."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from django.http import HttpRequest, HttpResponse

HEADER = "X-Aurora-Reason"
FIELD = "reason"
MAX_CHARACTERS = 500
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_current: ContextVar[HttpRequest | None] = ContextVar("request_with_reason", default=None)


def current_reason() -> str:
    """From the header (UTF-8), or from a form's field; "" where none was given, and outside of a request."""
    request = _current.get()
    if request is None:
        return ""
    given = request.headers.get(HEADER, "").encode("latin-1", "replace").decode(errors="replace")
    if not given and request.method == "POST" and request.content_type in FORMS:
        given = request.POST.get(FIELD, "")
    return " ".join(given.replace("\0", " ").split())[:MAX_CHARACTERS]


class RequestReasonMiddleware:
    """Keeps the request at hand; what it holds is looked at only when something is recorded."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        token = _current.set(request)
        try:
            return self.get_response(request)
        finally:
            _current.reset(token)
