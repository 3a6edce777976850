"""The pages about traces: search, one trace, deletion, export, and who may read text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.urls import reverse

from aurora_web.accounts.access import allow, user_of
from aurora_web.accounts.auth import Principal
from aurora_web.console.back import back_to
from aurora_web.moments import in_utc
from aurora_web.problems import Problem
from aurora_web.registry.models import Target
from aurora_web.traces import governance, payloads, search
from aurora_web.traces.marks import Marked, MarkedStep
from aurora_web.traces.models import DeletedTrace, TextRole, Trace, TraceSegment
from aurora_web.traces.people_api import export_response
from aurora_web.traces.pieces import of_steps
from aurora_web.traces.text import TokenReader, reader_for

STEPS_PER_PAGE = 100
PROMPT_TOKENS = 300  # shown of a long prompt, from its end


@allow("read")
def traces(request: HttpRequest, slug: str) -> HttpResponse:
    """Search; every filter is in the address."""
    found = get_object_or_404(Target, slug=slug)
    asked = in_utc(request.GET, ("since", "until"))
    given = {name: asked.get(name, "").strip() for name in search.FIELDS}
    context: dict[str, Any] = {"target": found, "given": given, "area": "traces", "page": None, "problem": ""}
    status = 200
    try:
        wanted = search.read_filter(given)
        context["is_filtered"] = not wanted.is_empty
        cursor = request.GET.get("cursor", "")
        context["page"] = search.search(found, wanted, cursor)
        context["count"] = search.count(found, wanted, None if cursor else context["page"])
    except search.SearchError as error:
        context |= {"problem": error.message, "wrong": error.field}
        status = 422
    except search.SearchTooSlow as error:
        context["problem"] = f"{error}."
        status = 503
    query = asked.copy()
    query.pop("cursor", None)
    context |= {
        "query": query.urlencode(),
        "found_by": _found_by(request),
        "is_later_page": "cursor" in request.GET,
        "count_limit": search.COUNT_LIMIT,
        "domains": search.domains(found),
        "states": search.STATES,
        "finish_reasons": search.FINISH_REASONS,
        "may_read_text": governance.may_read_text(found, user_of(request).scopes),
        "text_roles": TextRole.choices,
        "text_role": governance.text_role(found),
        "max_export": payloads.MAX_EXPORT,
    }
    return render(request, "console/traces.html", context, status=status)


@allow("read")
def export(request: HttpRequest, slug: str) -> HttpResponse:
    """What the search found as JSON lines."""
    found = get_object_or_404(Target, slug=slug)
    principal = Principal(user_of(request).username, user_of(request).scopes)
    asked = in_utc(request.GET, ("since", "until"))
    given = {name: asked.get(name, "").strip() for name in search.FIELDS}
    try:
        return export_response(found, given, principal, request.GET.get("cursor", ""), payloads.MAX_EXPORT)
    except Problem as error:
        messages.error(request, f"Nothing was exported: {error.detail}.")
        return _to_list(request, slug)


@allow("administer", "POST")
def access(request: HttpRequest, slug: str) -> HttpResponse:
    """Who may read text."""
    found = get_object_or_404(Target, slug=slug)
    role, reason = request.POST.get("text_role", ""), request.POST.get("reason", "")[:500]
    try:
        governance.set_text_role(found, role, user_of(request).username, reason)
    except governance.GovernanceError as error:
        messages.error(request, f"Nothing was changed: {error}.")
    else:
        messages.success(request, f"The text of traces is now for: {TextRole(role).label}.")
    return back_to(request, "console:traces", slug)


@allow("read")
def trace(request: HttpRequest, slug: str, trace_id: UUID) -> HttpResponse:
    """One trace, token by token."""
    found = get_object_or_404(Target, slug=slug)
    row = Trace.objects.filter(target=found, trace_id=trace_id).first()
    if row is None:
        gone = DeletedTrace.objects.filter(target=found, trace_id=trace_id).first()
        context = {"target": found, "trace_id": trace_id, "deleted": gone, "area": "traces"}
        context["found_by"] = _found_by(request)
        return render(request, "console/trace_gone.html", context, status=410 if gone else 404)
    may_read_text = governance.may_read_text(found, user_of(request).scopes)
    if may_read_text:
        governance.note_reading(found, row.trace_id, user_of(request).username)
    reader, problem = reader_for(found, may_read_text)
    marked = payloads.marked_trace(row)
    first_step = _first_step(request.GET.get("step", ""), len(marked.steps))
    context = {
        "target": found,
        "area": "traces",
        "trace": row,
        "found_by": _found_by(request),
        "num_generated": len(row.tokens) - row.prompt_len,
        "marked": marked,
        "may_read_text": may_read_text,
        "text_role": TextRole(governance.text_role(found)).label,
        "no_text": problem,
        "segment": TraceSegment.objects.filter(pk=row.segment_id).first(),
        **_shown(marked, reader, may_read_text, first_step),
    }
    return render(request, "console/trace.html", context)


@allow("operate", "POST")
def delete(request: HttpRequest, slug: str, trace_id: UUID) -> HttpResponse:
    """Delete one trace; the page then says what stays."""
    found = get_object_or_404(Target, slug=slug)
    try:
        row = governance.delete_trace(found, trace_id, user_of(request).username, request.POST.get("reason", "")[:500])
    except governance.GovernanceError as error:
        messages.error(request, f"Nothing was deleted: {error}.")
        return back_to(request, "console:trace", slug, trace_id)
    if row is None:
        messages.error(request, "Nothing was deleted: there is no such trace any more.")
    else:
        messages.success(request, f"The trace is deleted. {governance.what_stays(row)}")
    return _to_list(request, slug)


def _to_list(request: HttpRequest, slug: str) -> HttpResponse:
    """To the list as it was filtered."""
    found_by = _found_by(request)
    return HttpResponseRedirect(f"{reverse('console:traces', args=[slug])}{'?' if found_by else ''}{found_by}")


def _found_by(request: HttpRequest) -> str:
    """The search, and the page of it, in the address of something that was found by it: as a query."""
    asked = in_utc(request.GET, ("since", "until"))
    return urlencode([(name, asked[name]) for name in (*search.FIELDS, "cursor") if asked.get(name)])


def _first_step(asked: str, num_steps: int) -> int:
    """Index of the first step shown; anything odd is the beginning."""
    number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 8 else 1
    return max(0, min(number, num_steps) - 1) // STEPS_PER_PAGE * STEPS_PER_PAGE


@dataclass(frozen=True, slots=True)
class Piece:
    """A token as the page shows it."""

    text: str
    title: str


@dataclass(frozen=True, slots=True)
class ShownStep:
    """A step with the text of its tokens."""

    step: MarkedStep
    correct: list[Piece]
    rejected: list[Piece]
    dropped: list[Piece]
    bonus: list[Piece]


class _Painter:
    """Token ids to pieces: as text, as ids when there is no tokenizer, or hidden."""

    def __init__(self, reader: TokenReader | None, may_read_text: bool) -> None:
        self._reader = reader
        self._may_read_text = may_read_text

    def pieces(self, ids: tuple[int, ...], before: tuple[int, ...] = ()) -> list[Piece]:
        if not self._may_read_text:
            return [Piece("▪", "hidden") for _ in ids]
        if self._reader is None:
            return [Piece(f"⟨{token_id}⟩", f"token {token_id}") for token_id in ids]
        texts = self._reader.pieces(ids, before)
        return [Piece(_visible(text), f"token {i}") for text, i in zip(texts, ids, strict=True)]


def _visible(text: str) -> str:
    """Line ends are seen, and still end the line; a token without text is seen too."""
    return text.replace("\r", "␍").replace("\n", "↵\n").replace("\t", "⇥\t") or "∅"


def _shown(marked: Marked, reader: TokenReader | None, may_read_text: bool, first_step: int) -> dict[str, Any]:
    painter = _Painter(reader, may_read_text)
    steps = marked.steps[first_step : first_step + STEPS_PER_PAGE]
    prompt = marked.prompt[-PROMPT_TOKENS:]
    pieces = of_steps(marked, painter.pieces, first_step, STEPS_PER_PAGE)
    last_step = first_step + len(steps)
    return {
        "prompt": painter.pieces(prompt) if not first_step else [],
        "num_prompt_hidden": len(marked.prompt) - len(prompt),
        "first": painter.pieces(marked.first, marked.prompt[-1:]) if not first_step else [],
        "steps": [ShownStep(step, **found) for step, found in zip(steps, pieces, strict=True)],
        "rest": painter.pieces(marked.rest) if last_step == len(marked.steps) else [],
        "first_step": first_step + 1,
        "last_step": last_step,
        "previous_step": first_step + 1 - STEPS_PER_PAGE if first_step else None,
        "next_step": last_step + 1 if last_step < len(marked.steps) else None,
    }
