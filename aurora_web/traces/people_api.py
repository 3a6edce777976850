"""Traces for people and scripts: search, one trace, export, deletion, and who may read text."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from ninja import Field, Query, Router, Schema
from ninja.params.functions import Query as Param

from aurora_web.accounts.auth import Allow, Principal, caller
from aurora_web.accounts.services import record
from aurora_web.problems import Problem
from aurora_web.registry.models import Target
from aurora_web.registry.services import find_target
from aurora_web.traces import governance, payloads
from aurora_web.traces.addresses import register_trace_ids
from aurora_web.traces.answers import DeletedTraceOut, TraceOut, TracePage
from aurora_web.traces.models import Trace
from aurora_web.traces.search import COUNT_LIMIT, MAX_PAGE, PAGE, SearchError, SearchTooSlow, count, read_filter, search
from aurora_web.traces.text import reader_for
from aurora_web.wire import BodySchema, Documented, ReasonText, file_schema

register_trace_ids()
router = Router(tags=["traces"], auth=Allow("read"))
NEXT_HEADER = "X-Aurora-Next"
PIECES: Any = Param(False, description="with the text that each token adds, beside its ids")


class SearchQuery(Schema):
    """What traces are looked for by; empty ones are ignored."""

    since: str = ""
    until: str = ""
    version: str = ""
    domain: str = ""
    min_accept_length: str = ""
    max_accept_length: str = ""
    finish_reason: str = ""
    state: str = ""
    slices: str = Field("", description="ids of training slices with commas, as a version's /learnt names them")


class AccessIn(BodySchema):
    text_role: str
    reason: ReasonText = ""


class DeleteIn(BodySchema):
    reason: ReasonText


@router.get("/{slug}/traces", response=Annotated[dict[str, Any], Documented(TracePage)])
def search_traces(
    request: HttpRequest, slug: str, given: Query[SearchQuery], cursor: str = "", limit: int = PAGE
) -> dict[str, Any]:
    """Traces that match, newest first, without tokens; ``state``: trained, held_out, waiting, leased or lost.

    ``next`` is the cursor of the next page, null on the last; ``count`` stops at 1,001 and is null when counting takes
    too long.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise Problem(422, f"limit is {limit}, expected 1 to {MAX_PAGE}")
    target = find_target(slug)
    try:
        wanted = read_filter(given.dict())
        found = search(target, wanted, cursor, limit)
    except SearchError as error:
        raise Problem(422, str(error), field=error.field) from error
    except SearchTooSlow as error:
        raise Problem(503, str(error)) from error
    items = [payloads.summary(trace) for trace in found.traces]
    num_found = count(target, wanted, None if cursor else found)
    return {"items": items, "next": found.next or None, "count": num_found, "count_limit": COUNT_LIMIT}


@router.get(
    "/{slug}/traces/export", response=None, openapi_extra=file_schema("A trace per line", "application/x-ndjson")
)
def export_traces(
    request: HttpRequest, slug: str, given: Query[SearchQuery], cursor: str = "", limit: int = payloads.MAX_EXPORT
) -> HttpResponse:
    """JSON lines, newest first; the header X-Aurora-Next has the cursor of the rest. Token ids and text only for
    roles that may read text; every export is in the activity log."""
    return export_response(find_target(slug), given.dict(), caller(request), cursor, limit)


def export_response(
    target: Target, given: dict[str, str], principal: Principal, cursor: str, limit: int
) -> HttpResponse:
    """The file of an export, and its line in the activity log. Raises Problem."""
    if not 1 <= limit <= payloads.MAX_EXPORT:
        raise Problem(422, f"limit is {limit}, expected 1 to {payloads.MAX_EXPORT}")
    has_text = governance.may_read_text(target, principal.scopes)
    try:
        lines, following, num_traces = payloads.export(target, read_filter(given), has_text, cursor, limit)
    except SearchError as error:
        raise Problem(422, str(error), field=error.field) from error
    except SearchTooSlow as error:
        raise Problem(503, str(error)) from error
    detail = {"num_traces": num_traces, "has_text": has_text, "filter": given}
    record(principal.name, "trace.export", target.slug, target_slug=target.slug, detail=detail)
    response = HttpResponse(lines, content_type="application/x-ndjson")
    response["Content-Disposition"] = f'attachment; filename="{target.slug}-traces.jsonl"'
    if following:
        response[NEXT_HEADER] = following
    return response


@router.get("/{slug}/traces/{trace_id:trace_id}", response=Annotated[dict[str, Any], Documented(TraceOut)])
def get_trace(request: HttpRequest, slug: str, trace_id: UUID, pieces: bool = PIECES) -> dict[str, Any]:
    """One trace by verify steps: correct, rejected, dropped and bonus token ids, with the text of all (each reading is
    in the audit log), or only their numbers. Where the tokenizer cannot be read, ``no_text`` says why."""
    target = find_target(slug)
    trace = Trace.objects.filter(target=target, trace_id=trace_id).first()
    if trace is None:
        raise Problem(404, f"{slug} has no trace {trace_id.hex}: it has expired, or was deleted")
    principal = caller(request)
    has_text = governance.may_read_text(target, principal.scopes)
    if has_text:
        governance.note_reading(target, trace_id, principal.name)
    reader, problem = reader_for(target, has_text)
    found = payloads.whole(trace, has_text, reader) | {"no_text": problem}
    return payloads.with_pieces(found, trace, reader) if pieces else found


@router.delete(
    "/{slug}/traces/{trace_id:trace_id}",
    response=Annotated[dict[str, Any], Documented(DeletedTraceOut)],
    auth=Allow("operate"),
)
def delete_trace(request: HttpRequest, slug: str, trace_id: UUID, body: DeleteIn) -> dict[str, Any]:
    """Delete one trace for good; what stays is said in the answer."""
    try:
        row = governance.delete_trace(find_target(slug), trace_id, caller(request).name, body.reason)
    except governance.GovernanceError as error:
        raise Problem(422, str(error)) from error
    if row is None:
        raise Problem(404, f"{slug} has no trace {trace_id.hex}: it has expired, or was deleted")
    return {"trace_id": trace_id.hex, "was_trained": row.was_trained, "what_stays": governance.what_stays(row)}


@router.get("/{slug}/trace-access", response=dict[str, str])
def get_access(request: HttpRequest, slug: str) -> dict[str, str]:
    """Who may read the text of this target's traces: the least role that may."""
    return {"text_role": governance.text_role(find_target(slug))}


@router.patch("/{slug}/trace-access", response=dict[str, str], auth=Allow("administer"))
def change_access(request: HttpRequest, slug: str, body: AccessIn) -> dict[str, str]:
    """Who may read the text of this target's traces: viewer, operator or admin, and those above."""
    try:
        governance.set_text_role(find_target(slug), body.text_role, caller(request).name, body.reason)
    except governance.GovernanceError as error:
        raise Problem(422, str(error)) from error
    return {"text_role": body.text_role}
