"""Answers of the API against the types of its document: no field is lost, none is named that never comes."""

import json

from aurora_web.api import api

JSON = "application/json"
KINDS = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "null": type(None)}


def differs(schema, value, schemas, path=""):
    """Places where an answer and its type do not have the same fields; "any object" says nothing, and is let by.

    Fields that the type does not require may be missing.
    """
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        kinds = [each for each in schema["anyOf"] if (each.get("type") == "null") == (value is None)]
        return differs(kinds[0], value, schemas, path) if kinds else [f"{path} is {value!r}"]
    if "properties" in schema:
        if not isinstance(value, dict):
            return [f"{path} is {value!r}"]
        wrong = sorted((set(value) - set(schema["properties"])) | (set(schema.get("required", ())) - set(value)))
        found = [f"{path}.{name}" for name in wrong]
        for name in set(schema["properties"]) & set(value):
            found += differs(schema["properties"][name], value[name], schemas, f"{path}.{name}")
        return found
    if schema.get("type") == "array":
        if not isinstance(value, list):
            return [f"{path} is {value!r}"]
        return [each for item in value for each in differs(schema["items"], item, schemas, f"{path}[]")]
    if not isinstance(value, KINDS[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean"):
        return [f"{path} is {value!r}"]
    values = schema.get("additionalProperties")
    if not isinstance(values, dict):
        return []
    return [each for name, item in value.items() for each in differs(values, item, schemas, f"{path}[{name}]")]


def answers(document):
    """(method and path, status, schema) of every answer in JSON to a request that was carried out."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                schema = answer.get("content", {}).get(JSON, {}).get("schema")
                if schema and status != "default":
                    yield f"{method.upper()} {path.removeprefix('/api/v1')}", int(status), schema


def any_objects(document):
    """Where an answer, or a type that answers are made of, lets every object by: it says nothing about what comes."""
    places = {place: schema for place, _, schema in answers(document)}
    for name, schema in document["components"]["schemas"].items():
        places |= {f"{name}.{field}": kind for field, kind in schema.get("properties", {}).items()}
    return {place for place, schema in places.items() if _has_any_object(schema)}


def _has_any_object(schema):
    within = [*schema.get("anyOf", ()), schema.get("items"), schema.get("additionalProperties")]
    return schema.get("additionalProperties") is True or any(_has_any_object(e) for e in within if isinstance(e, dict))


def as_json(payload):
    return json.loads(json.dumps(payload))


class Asker:
    """ask("GET", "/targets/{slug}/swaps", slug="demo"): the answer, after its comparison with the document."""

    def __init__(self, client, headers):
        self._client, self._headers = client, headers
        self._document = json.loads(json.dumps(api.get_openapi_schema(), default=str))

    def __call__(self, method, path, body=None, query="", **given):
        data, address = json.dumps(body or {}), f"/api/v1{path.format(**given)}{query}"
        answer = self._client.generic(method, address, data, content_type=JSON, **self._headers)
        named = {status: schema for at, status, schema in answers(self._document) if at == f"{method} {path}"}
        assert answer.status_code in named, answer.content
        schema = named[answer.status_code]
        assert schema.get("additionalProperties") is not True, f"{path} has no type"
        assert differs(schema, answer.json(), self._document["components"]["schemas"]) == []
        return answer.json()
