"""The pages about the installation, and the help."""

from __future__ import annotations

from datetime import UTC, datetime

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from aurora_web import system as state
from aurora_web.accounts.access import allow


@allow("read")
def system(request: HttpRequest) -> HttpResponse:
    """Database, retention and versions at once; the page then fetches what has to be asked for."""
    context = {
        "database": state.database(),
        "retention": state.retention(),
        "versions": state.versions(),
        "engines": state.engines(),
    }
    return render(request, "console/system.html", context)


@allow("read")
def processes(request: HttpRequest) -> HttpResponse:
    """Workers, queues, beat and directories, as a part of the page."""
    found = state.processes()
    context = {
        "found": found,
        "at": datetime.fromtimestamp(found.at, UTC),
        "busy_since": state.busy_since(),
        "late_seconds": state.LATE_SECONDS,
        "inspect_seconds": state.INSPECT_SECONDS,
    }
    return render(request, "console/_processes.html", context)


@allow("read")
def help_page(request: HttpRequest) -> HttpResponse:
    """Shortcuts and words."""
    return render(request, "console/help.html")
