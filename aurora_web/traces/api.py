"""Ingest of segments and their traces."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Router

from aurora_web.accounts.auth import Allow
from aurora_web.traces import services
from aurora_web.wire import body_schema, read_json

router = Router(tags=["ingest"], auth=Allow("ingest"))


@router.post(
    "/segments",
    response=dict[str, int],
    openapi_extra=body_schema(
        "One SegmentManifest and its TraceRecords (speculators/records.py)",
        {"segment": {"type": "object"}, "traces": {"type": "array", "items": {"type": "object"}}},
    ),
)
def ingest_segments(request: HttpRequest) -> dict[str, int]:
    """Store a sealed segment and its traces, all or nothing; idempotent on segment_id and trace_id."""
    accepted, duplicates = services.ingest_segment(read_json(request))
    return {"accepted": accepted, "duplicates": duplicates}
