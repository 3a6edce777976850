"""Bodies past pydantic: wire records, decoded by speculators.records, and answers of many numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from django.http import HttpRequest, HttpResponse
from ninja import Schema
from ninja.parser import Parser
from pydantic import AfterValidator, ConfigDict, GetJsonSchemaHandler, TypeAdapter, model_validator
from pydantic_core.core_schema import list_schema

from speculators.records import RecordError

LONGEST_REASON = 500  # characters that are kept


def _reason(text: str) -> str:
    if "\0" in text:
        raise ValueError("a reason is text without a NUL character")
    return text[:LONGEST_REASON]


ReasonText = Annotated[str, AfterValidator(_reason)]


def body_schema(description: str, properties: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI for a body that is decoded by speculators.records and not by pydantic."""
    schema = {"type": "object", "description": description, "required": list(properties), "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def file_schema(description: str, *content_types: str) -> dict[str, Any]:
    """OpenAPI for an answer that is a file of one of these types."""
    kind = {"type": "string"}
    if "application/octet-stream" in content_types:
        kind |= {"format": "binary"}
    content = {each: {"schema": kind} for each in content_types}
    return {"responses": {200: {"description": description, "content": content}}}


def read_json(request: HttpRequest) -> Any:
    """The body as JSON. Raises RecordError."""
    try:
        return orjson.loads(request.body)
    except orjson.JSONDecodeError as error:
        raise RecordError(f"the body is not JSON: {error}") from error


class BodySchema(Schema):
    """A body in which a field that nobody knows is refused by name: a slip must not pass for "not given".

    So is a text with a NUL character, which Postgres cannot keep.
    """

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nul(cls, given: Any) -> Any:
        for name, value in given.items() if isinstance(given, dict) else ():
            if _has_nul(value):
                raise ValueError(f"{name} holds a NUL character: expected text without it")
        return given


def _has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_nul, value)) or any(map(_has_nul, value.values()))
    return "\0" in value if isinstance(value, str) else isinstance(value, list) and any(map(_has_nul, value))


class JsonParser(Parser):
    """Bodies that are JSON and nothing else: Python's own reader takes NaN and Infinity, which no limit stops."""

    def parse_body(self, request: HttpRequest) -> Any:
        return orjson.loads(request.body)


def json_answer(value: Any) -> HttpResponse:
    """A long answer of plain dicts, lists and numbers, straight to JSON: a schema of ``Any`` checks nothing in it."""
    body = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    return HttpResponse(body, content_type="application/json; charset=utf-8")


@dataclass(frozen=True, slots=True)
class Documented:
    """``Annotated[dict[str, Any], Documented(MetricsOut)]``: what the document says of what goes out as it is.

    A Schema in its place would take every value of the answer through pydantic, which makes a float of a whole number,
    and a null of a field that is left out.
    """

    type: Any  # a Schema, or a type that is made of some

    def __get_pydantic_json_schema__(self, of_values: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        named: dict[str, Any] = handler(list_schema(TypeAdapter(self.type).core_schema))["items"]
        return named  # a Schema that is no list's would be written out in its place
