"""The audit page: filters in the address, one event with what it changed, exports."""

from __future__ import annotations

from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from aurora_web.accounts import audit
from aurora_web.accounts.access import allow
from aurora_web.accounts.audit import AuditFilter, WrongFilter
from aurora_web.accounts.models import AuditEvent
from aurora_web.moments import WrongMoment, in_utc
from aurora_web.registry.models import Target


@allow("read")
def events(request: HttpRequest) -> HttpResponse:
    """Everything that somebody did, newest first."""
    chosen = AuditFilter.of(in_utc(request.GET, ("since", "until")))
    cursor, problem = request.GET.get("cursor", ""), ""
    try:
        found, following = audit.page(chosen, cursor)
    except (WrongFilter, WrongMoment) as error:
        found, following, problem = [], None, str(error)
    kept = {name: getattr(chosen, name) for name in chosen.__slots__ if getattr(chosen, name)}
    context = {
        "events": found,
        "next": following,
        "is_first": not cursor,
        "chosen": chosen,
        "query": urlencode(kept),
        "problem": problem,
        "targets": Target.objects.values_list("slug", flat=True),
        "max_export": audit.MAX_EXPORT,
        **audit.suggestions(),
    }
    return render(request, "console/audit.html", context, status=422 if problem else 200)


@allow("read")
def event(request: HttpRequest, pk: int) -> HttpResponse:
    """One event: before and after side by side, and what else the same request did."""
    found = get_object_or_404(AuditEvent, pk=pk)
    same = AuditEvent.objects.filter(request_id=found.request_id).exclude(pk=pk).exclude(request_id="")
    return render(request, "console/audit_event.html", {"event": found, "same_request": same[:20]})


@allow("read")
def activity(request: HttpRequest) -> HttpResponse:
    """The page's former address."""
    query = request.GET.urlencode()
    response = redirect("console:audit")
    response["Location"] += f"?{query}" if query else ""
    return response
