"""The OpenAPI document: what django-ninja derives from the code, and what holds for every operation."""

from __future__ import annotations

import json
from typing import Any

from ninja import NinjaAPI

from aurora_web.problems import CONTENT_TYPE
from aurora_web.request_reason import HEADER, MAX_CHARACTERS

PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457: what went wrong, with the value and what would be right.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same body gives the first answer again, for 24 hours; another body is 422.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200},
}
REASON = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "Why, in UTF-8: kept in the audit log beside what was done, where the body has no reason.",
    "schema": {"type": "string", "maxLength": MAX_CHARACTERS},
}
METHODS = ("get", "post", "put", "patch", "delete")


class AuroraAPI(NinjaAPI):
    """NinjaAPI whose document also names the errors, the headers that every change takes, and the scope of each."""

    def get_openapi_schema(self, **kwargs: Any) -> Any:
        document = super().get_openapi_schema(**kwargs)
        components = document.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = PROBLEM
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        scopes = self._scopes()
        answer = {
            "description": "Problem",
            "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for path in document["paths"].values():
            for method in set(path) & set(METHODS):
                found = {str(status): each for status, each in path[method]["responses"].items()}
                path[method]["responses"] = found | {"default": answer}
                path[method]["security"] = [{"bearer": [scopes[path[method]["operationId"]]]}]
                headers = [REASON] if method != "get" and scopes[path[method]["operationId"]] != "ingest" else []
                if method == "post":
                    headers.insert(0, IDEMPOTENCY_KEY)
                if headers:
                    path[method]["parameters"] = [*path[method].get("parameters", []), *headers]
        return document

    def _scopes(self) -> dict[str, str]:
        """{operationId: the scope (accounts/scopes.py) that a caller needs}."""
        found = {}
        for _, router in self._routers:
            for view in router.path_operations.values():
                for operation in view.operations:
                    asked: Any = operation.auth_callbacks[0] if operation.auth_callbacks else router.auth
                    found[self.get_openapi_operation_id(operation)] = asked.scope
        return found


def document_text(api: NinjaAPI) -> str:
    """The document as docs/openapi.json holds it."""
    return json.dumps(api.get_openapi_schema(), indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n"
