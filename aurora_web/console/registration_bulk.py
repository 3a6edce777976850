"""Several targets from a YAML file: what was given is kept in a draft, checked entry by entry, then confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from aurora_web.accounts.access import allow, user_of
from aurora_web.console.registration_forms import BulkForm, typed
from aurora_web.registry import bulk as registrations
from aurora_web.registry import registration_drafts as drafts
from aurora_web.registry.bulk import BulkRefused, Entry, RegistrationFileError
from aurora_web.registry.findings import State
from aurora_web.registry.models import RegistrationDraft

EXAMPLE = """targets:
  - slug: chat
    path: /models/qwen3-0.6b
    policy:
      approval: manual
      expected_domains: [sql, prose]
      trace_days: 14
  - slug: large
    source: sglang
    path: /models/qwen3-8b
    draft_path: /models/qwen3-8b-eagle3
"""


@allow("register")
def begin(request: HttpRequest) -> HttpResponse:
    """A draft's address; its row is made when a file is given."""
    return redirect("console:register_file", draft_id=uuid4())


@allow("register", "GET", "HEAD", "POST")
def bulk(request: HttpRequest, draft_id: UUID) -> HttpResponse:
    """GET shows what was given with its check; POST keeps it, and with ``do=register`` registers."""
    draft = drafts.find_draft(user_of(request), draft_id)
    if draft is None:
        raise Http404("this draft is somebody else's")
    if request.method == "POST":
        drafts.save_step(draft, "bulk", typed(request, BulkForm))
        if request.POST.get("do") != "register":
            return redirect("console:register_file", draft_id=draft_id)
    given: dict[str, str] = draft.given.get("bulk", {})
    form = BulkForm(given or None, initial={"text": EXAMPLE})
    entries, problem = _checked(form, given, user_of(request).username)
    if request.method == "POST":
        return _register(request, draft, form, entries)
    context = {
        "form": form,
        "entries": [(entry, _state(entry)) for entry in entries],
        "problem": problem,
        "draft": draft,
    }
    num_known = sum(entry.known is not None for entry in entries)
    num_valid = sum(entry.is_valid for entry in entries) - num_known
    is_possible = registrations.is_possible(entries, given.get("mode") or "all")
    context |= {"num_valid": num_valid, "num_known": num_known, "is_possible": is_possible, "is_given": bool(given)}
    return render(request, "console/register_bulk.html", context)


def _register(request: HttpRequest, draft: RegistrationDraft, form: BulkForm, entries: Sequence[Entry]) -> HttpResponse:
    """Register those that can be, or lead back to the page, which says what is wrong with the file."""
    if not entries:
        return redirect("console:register_file", draft_id=draft.pk)
    try:
        made = registrations.register_all(entries, user_of(request).username, form.cleaned_data["mode"] or "all")
    except BulkRefused as refused:
        messages.error(request, f"Nothing was registered: {_numbers(refused.entries) or 'no entry'} cannot be.")
        return redirect("console:register_file", draft_id=draft.pk)
    drafts.discard(draft)
    messages.success(request, _outcome(entries, [target.slug for target in made]))
    return redirect("console:overview")


def _outcome(entries: Sequence[Entry], made: Sequence[str]) -> str:
    num_known = sum(entry.known is not None for entry in entries)
    left = len(entries) - len(made) - num_known
    said = f"Registered: {', '.join(made) or 'nothing new'}."
    return said + (f" There already: {num_known}." if num_known else "") + (f" Left out: {left}." if left else "")


def _checked(form: BulkForm, given: dict[str, str], actor: str) -> tuple[list[Entry], str]:
    """Every entry, or what is wrong with the file as a whole."""
    if not given:
        return [], ""
    if not form.is_valid():
        return [], " ".join(str(error) for errors in form.errors.values() for error in errors)
    try:
        return registrations.check_all(registrations.read_yaml(form.cleaned_data["text"]), actor), ""
    except RegistrationFileError as error:
        return [], f"This file cannot be read: {error}."


def _numbers(entries: Sequence[Entry]) -> str:
    return ", ".join(f"entry {entry.number} ({entry.slug or 'without a slug'})" for entry in entries)


def _state(entry: Entry) -> str:
    if not entry.is_valid:
        return "refused"
    if entry.known is not None:
        return "registered"
    return "warning" if any(finding.state == State.WARNING for finding in entry.findings) else "ok"
