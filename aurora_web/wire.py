"""Bodies past pydantic: wire records, decoded by speculators.records, and answers of many numbers."""

from __future__ import annotations

from typing import Any

import orjson
from django.http import HttpRequest, HttpResponse
from ninja import Schema
from ninja.parser import Parser
from pydantic import ConfigDict

from speculators.records import RecordError


def body_schema(description: str, properties: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI for a body that is decoded by speculators.records and not by pydantic."""
    schema = {"type": "object", "description": description, "required": list(properties), "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def read_json(request: HttpRequest) -> Any:
    """The body as JSON. Raises RecordError."""
    try:
        return orjson.loads(request.body)
    except orjson.JSONDecodeError as error:
        raise RecordError(f"the body is not JSON: {error}") from error


class BodySchema(Schema):
    """A body in which a field that nobody knows is refused by name: a slip must not pass for "not given"."""

    model_config = ConfigDict(extra="forbid")


class JsonParser(Parser):
    """Bodies that are JSON and nothing else: Python's own reader takes NaN and Infinity, which no limit stops."""

    def parse_body(self, request: HttpRequest) -> Any:
        return orjson.loads(request.body)


def json_answer(value: Any) -> HttpResponse:
    """A long answer of plain dicts, lists and numbers, straight to JSON: a schema of ``Any`` checks nothing in it."""
    body = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    return HttpResponse(body, content_type="application/json; charset=utf-8")
