"""Errors in the shape that OpenAI's clients understand: {"error": {message, type, param, code}}."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse


class ApiError(Exception):
    """Something to tell the client; ``param`` names the field at fault."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {"retry-after": "1"} if self.status in (429, 503) else None
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


def unavailable(message: str) -> ApiError:
    """The engine stops or has stopped."""
    return ApiError(message, status=503, kind="server_error", code="unavailable")


def internal(message: str) -> ApiError:
    """We failed; the details are in the log."""
    return ApiError(message, status=500, kind="server_error", code="internal_error")
