"""Ids of traces in addresses: 32 hex digits, as engines answer and the API says, or a UUID with its dashes."""

from __future__ import annotations

import functools
from uuid import UUID

from django.urls import register_converter


class TraceIdConverter:
    """``<trace_id:name>`` in a route."""

    regex = "[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"

    def to_python(self, value: str) -> UUID:
        return UUID(value)

    def to_url(self, value: UUID | str) -> str:
        return str(value)


@functools.cache
def register_trace_ids() -> None:
    """Before the routes that have one."""
    register_converter(TraceIdConverter, "trace_id")
