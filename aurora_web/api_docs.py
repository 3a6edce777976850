"""The page /api/docs: the OpenAPI document for people, made from it and never from a second source."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from aurora_web.accounts.access import allow
from aurora_web.api import api
from aurora_web.openapi import METHODS

Schema = Mapping[str, Any]


@allow("read")
def reference(request: HttpRequest) -> HttpResponse:
    """Every operation, or those whose address or description has ``q`` in it."""
    q = request.GET.get("q", "").strip()
    groups: dict[str, list[dict[str, Any]]] = {}
    for operation in _operations():
        if q.lower() in f"{operation['method']} {operation['path']} {operation['text']}".lower():
            groups.setdefault(operation["tag"], []).append(operation)
    return render(request, "api_docs.html", {"groups": groups, "q": q, "base": request.build_absolute_uri("/")[:-1]})


@cache
def _operations() -> tuple[dict[str, Any], ...]:
    document = api.get_openapi_schema()
    schemas = document["components"]["schemas"]
    return tuple(
        _operation(path, method, found[method], schemas)
        for path, found in sorted(document["paths"].items())
        for method in METHODS
        if method in found
    )


def _operation(path: str, method: str, found: Schema, schemas: Schema) -> dict[str, Any]:
    body = found.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    answer = found["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema")
    return {
        "path": path,
        "method": method.upper(),
        "tag": found["tags"][0],
        "text": found.get("description") or found["summary"],
        "scope": found["security"][0]["bearer"][0],
        "parameters": [
            {
                "name": each["name"],
                "where": each["in"],
                "required": each.get("required", False),
                **_described(each["schema"], schemas),
                "text": each.get("description", ""),
            }
            for each in found.get("parameters", [])
        ],
        "body": _fields(body, schemas) if body else [],
        "has_body": body is not None,
        "answer": _fields(answer, schemas) if answer else [],
    }


def _fields(schema: Schema, schemas: Schema) -> list[dict[str, Any]]:
    """The fields of an object, or of the objects in a list; nothing for a free one."""
    found = _resolved(schema, schemas)
    if found.get("type") == "array":
        found = _resolved(found["items"], schemas)
    required = found.get("required", [])
    return [
        {"name": name, "required": name in required, **_described(each, schemas), "text": each.get("description", "")}
        for name, each in found.get("properties", {}).items()
    ]


def _resolved(schema: Schema, schemas: Schema) -> Schema:
    """Without references, and of "this or null" only this."""
    for each in schema.get("anyOf", ()):
        if each.get("type") != "null":
            return _resolved(each, schemas)
    if "$ref" in schema:
        return _resolved(schemas[schema["$ref"].rsplit("/", 1)[-1]], schemas)
    return schema


def _described(schema: Schema, schemas: Schema) -> dict[str, Any]:
    """``{"kind", "default"}`` in a few words."""
    found = _resolved(schema, schemas)
    kind = found.get("type", "any")
    if kind == "array":
        kind = f"list of {_resolved(found['items'], schemas).get('type', 'any')}s"
    if "enum" in found:
        kind = " | ".join(map(str, found["enum"]))
    if any(each.get("type") == "null" for each in schema.get("anyOf", ())):
        kind += " or null"
    default = schema.get("default")
    return {"kind": kind, "default": "" if default is None else repr(default)}
