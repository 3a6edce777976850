"""Errors of the API as RFC 9457 problem+json, whoever made them."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse

CONTENT_TYPE = "application/problem+json"
API_PREFIX = "/api/v1"
LONGEST_DETAIL = 2000  # characters: what was given is in it, and can be megabytes


class Problem(Exception):
    """An error with a status and words for the caller; ``extra`` become members of the answer."""

    def __init__(self, status: int, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.extra = extra


def problem_response(status: int, detail: str, **extra: Any) -> JsonResponse:
    """One error as problem+json."""
    detail = detail if len(detail) <= LONGEST_DETAIL else f"{detail[: LONGEST_DETAIL - 1]}…"
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **extra}
    response = JsonResponse(body, status=status, content_type=CONTENT_TYPE)
    if status == 401:
        response["WWW-Authenticate"] = "Bearer"
    return response


class ApiProblemMiddleware:
    """Django's own error pages (no such address, wrong method, a bug) become problem+json under /api/v1."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        is_api = request.path == API_PREFIX or request.path.startswith(f"{API_PREFIX}/")
        nul = [name for name, values in request.GET.lists() if any("\0" in text for text in (name, *values))]
        if is_api and nul:
            return problem_response(422, f"{nul[0]!r:.80} holds a NUL character: expected text without it")
        response = self.get_response(request)
        if not is_api or response.status_code < 400 or response.headers.get("Content-Type") == CONTENT_TYPE:
            return response
        problem = problem_response(response.status_code, _words(request, response))
        for name in ("Allow", "Retry-After"):
            if name in response.headers:
                problem[name] = response[name]
        return problem


def _words(request: HttpRequest, response: HttpResponse) -> str:
    if response.status_code == 404:
        return f"there is nothing at {request.path:.200}: /api/docs lists the addresses"
    if response.status_code == 405:
        return f"{request.method} is not for {request.path:.200}: expected {response.headers.get('Allow', '')}"
    if response.status_code == 503:
        return "the database is not available; try again"
    if response.status_code >= 500:
        return "this is a bug of the console; its log has the traceback under the X-Request-ID of this answer"
    return response.reason_phrase
