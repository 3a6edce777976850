"""The registration wizard: source, check, plan, review. Each step of each draft has an address of its own.

What is sent is kept in the draft, right or wrong, and the answer is always an address whose page says what is wrong
with what was kept: every page can be reloaded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from aurora_web.accounts.access import allow, user_of
from aurora_web.accounts.services import create_token
from aurora_web.console.registration_forms import PlanForm, SourceForm, typed
from aurora_web.console.registration_words import sentences
from aurora_web.registry import packages
from aurora_web.registry import registration_drafts as drafts
from aurora_web.registry.announcements import FRESH, announced_replicas
from aurora_web.registry.checks import MAX_TOKENS_PER_SECOND, TOKENS_PER_SECOND
from aurora_web.registry.findings import Finding, State, Topic, refused
from aurora_web.registry.launch import TOKEN
from aurora_web.registry.models import AnnouncedReplica, RegistrationDraft, Target
from aurora_web.registry.services import IncompatibleTarget, Proposal, propose

STEPS = {"source": "Source", "check": "Compatibility check", "plan": "Plan", "review": "Review and start"}
FORMS: dict[str, type[SourceForm | PlanForm]] = {"source": SourceForm, "plan": PlanForm}
NEW_TOKEN = "enrolment_token"
OF_PLAN = (Topic.DRAFT, Topic.SETTINGS)  # what the plan decides; the rest follows from the source


class Wizard:
    """One draft with its two forms, bound to what was typed so far."""

    def __init__(self, draft: RegistrationDraft) -> None:
        self.draft = draft
        given: dict[str, dict[str, str]] = draft.given
        self.has_source = "source" in given
        self.source = SourceForm(given["source"]) if self.has_source else SourceForm()
        self.announced = self._announced(given.get("source", {}))
        # What nobody has typed into yet has the defaults; what is bound has what was typed, wrong or right.
        self.plan = PlanForm(given.get("plan"), announced=self.announced)
        self.has_plan = "plan" in given

    def _announced(self, given: dict[str, str]) -> AnnouncedReplica | None:
        if given.get("source") != "reported":
            return None
        slug, _, name = given.get("replica", "").partition("/")
        return AnnouncedReplica.objects.filter(slug=slug, name=name).first()

    def arguments(self) -> dict[str, Any]:
        """What ``propose`` takes; a plan that nobody has looked at leaves everything to its defaults."""
        plan = self.plan.arguments() if self.has_plan and self.plan.is_valid() else {}
        if not self.has_plan and self.plan.initial.get("draft_path"):
            plan = {"draft_path": self.plan.initial["draft_path"]}
        return self.source.origin() | plan

    def propose(self, actor: str, tokens_per_second: float = TOKENS_PER_SECOND) -> Proposal | None:
        """The check of what was typed; None while the source's form itself is wrong."""
        if not self.source.is_valid():
            return None
        return propose(actor=actor, tokens_per_second=tokens_per_second, **self.arguments())

    def context(self, step: str) -> dict[str, Any]:
        links = [(name, label, bool(self.draft.given)) for name, label in STEPS.items()]
        return {"draft": self.draft, "wizard": self, "step": step, "steps": links}


def _open(request: HttpRequest, draft_id: UUID) -> Wizard | HttpResponse:
    """The person's own draft; one that was started leads to its target."""
    draft = drafts.find_draft(user_of(request), draft_id)
    if draft is None:
        raise Http404("this draft is somebody else's")
    if draft.target is not None:
        return redirect("console:target", slug=draft.target.slug)
    return Wizard(draft)


def _of_own_draft(view: Callable[[HttpRequest, Wizard], HttpResponse]) -> Callable[[HttpRequest, UUID], HttpResponse]:
    """Gives a view the wizard of the person's draft instead of its id; 404 or a redirect where there is none."""

    @functools.wraps(view)
    def opened(request: HttpRequest, draft_id: UUID) -> HttpResponse:
        wizard = _open(request, draft_id)
        return wizard if isinstance(wizard, HttpResponse) else view(request, wizard)

    return opened


@allow("register")
def begin(request: HttpRequest) -> HttpResponse:
    """A draft's address; its row is made when something is typed."""
    return redirect("console:register_source", draft_id=uuid4())


@allow("register", "GET", "HEAD", "POST")
@_of_own_draft
def source(request: HttpRequest, wizard: Wizard) -> HttpResponse:
    """Step 1: the directory, model id or server. A source that cannot be read leads back here, with the reason."""
    if request.method == "POST":
        drafts.save_step(wizard.draft, "source", typed(request, SourceForm))
        wizard = Wizard(wizard.draft)
    proposal = wizard.propose(user_of(request).username) if wizard.has_source else None
    if request.method == "POST":
        is_read = proposal is not None and proposal.facts is not None
        return redirect(f"console:register_{'check' if is_read else 'source'}", draft_id=wizard.draft.pk)
    problems = refused(proposal.findings) if proposal is not None and proposal.facts is None else []
    others = [draft for draft in drafts.open_drafts(user_of(request)) if draft.pk != wizard.draft.pk]
    context = wizard.context("source") | {"problems": problems, "others": others}
    context |= {"packages": packages.prepared()} | _servers(request, wizard)
    return render(request, "console/register_source.html", context)


def _servers(request: HttpRequest, wizard: Wizard) -> dict[str, Any]:
    return {
        "draft": wizard.draft,
        "announced": announced_replicas(),
        "chosen": wizard.draft.given.get("source", {}).get("replica", ""),
        "fresh": FRESH,
        "console_url": settings.CONSOLE_URL,
        "token_variable": TOKEN,
        "new_token": request.session.pop(NEW_TOKEN, ""),  # shown once
    }


@allow("register")
@_of_own_draft
def servers(request: HttpRequest, wizard: Wizard) -> HttpResponse:
    """The servers that have reported themselves, as a part of step 1."""
    return render(request, "console/_register_servers.html", _servers(request, wizard))


@allow("register", "POST")
@_of_own_draft
def token(request: HttpRequest, wizard: Wizard) -> HttpResponse:
    """A token with which servers may announce themselves; the next page shows it, once."""
    drafts.save_step(wizard.draft, "source", {**wizard.draft.given.get("source", {}), "source": "reported"})
    _, secret = create_token("enrolment of servers", "replica", user_of(request).username)
    request.session[NEW_TOKEN] = f"export {TOKEN}={secret}"
    return redirect("console:register_source", draft_id=wizard.draft.pk)


@allow("register")
@_of_own_draft
def check(request: HttpRequest, wizard: Wizard) -> HttpResponse:
    """Step 2: one line per thing with its fix; ``tokens_per_second`` in the address sets the estimate's load."""
    rate, problem = _rate(request.GET.get("tokens_per_second", ""))
    proposal = wizard.propose(user_of(request).username, rate)
    if proposal is None:
        return redirect("console:register_source", draft_id=wizard.draft.pk)
    findings = [finding for finding in proposal.findings if finding.topic != Topic.SETTINGS]
    context = wizard.context("check") | {
        "facts": proposal.facts,
        "findings": findings,
        "num_refused": sum(
            finding.topic not in OF_PLAN for finding in refused(findings)
        ),  # a draft can be changed next
        "num_warnings": sum(finding.state == State.WARNING for finding in findings),
        "asked_rate": request.GET.get("tokens_per_second") or f"{rate:g}",
        "rate_problem": problem,
    }
    return render(request, "console/register_check.html", context, status=422 if problem else 200)


def _rate(asked: str) -> tuple[float, str]:
    """Tokens per second, and what is wrong with them as they were asked for."""
    if not asked:
        return TOKENS_PER_SECOND, ""
    try:
        rate = float(asked)
    except ValueError:
        rate = -1.0
    if 0 < rate <= MAX_TOKENS_PER_SECOND:
        return rate, ""
    return TOKENS_PER_SECOND, f"{asked!r:.40} is no rate: expected tokens per second above 0, like 2500."


@allow("register", "GET", "HEAD", "POST")
@_of_own_draft
def plan(request: HttpRequest, wizard: Wizard) -> HttpResponse:
    """Step 3: first draft, policy, domains, retention, name."""
    if request.method == "POST":
        drafts.save_step(wizard.draft, "plan", typed(request, PlanForm))
        wizard = Wizard(wizard.draft)
    problems: list[Finding] = []
    if wizard.has_plan:
        proposal = wizard.propose(user_of(request).username)
        if proposal is None:
            return redirect("console:register_source", draft_id=wizard.draft.pk)
        problems = [finding for finding in refused(proposal.findings) if finding.topic in OF_PLAN]
    if request.method == "POST":
        is_possible = wizard.plan.is_valid() and not problems
        return redirect(f"console:register_{'review' if is_possible else 'plan'}", draft_id=wizard.draft.pk)
    return render(request, "console/register_plan.html", wizard.context("plan") | {"problems": problems})


@allow("register", "GET", "HEAD", "POST")
@_of_own_draft
def review(request: HttpRequest, wizard: Wizard) -> HttpResponse:
    """Step 4: what will happen, and the button that makes it happen."""
    proposal = wizard.propose(user_of(request).username)
    if proposal is None:
        return redirect("console:register_source", draft_id=wizard.draft.pk)
    if wizard.has_plan and not wizard.plan.is_valid():
        return redirect("console:register_plan", draft_id=wizard.draft.pk)
    if request.method == "POST":
        try:
            seen = request.POST.get("seen", "")
            target = drafts.start(wizard.draft, user_of(request).username, wizard.arguments(), seen)
        except IncompatibleTarget:  # the page says why
            return redirect("console:register_review", draft_id=wizard.draft.pk)
        except drafts.DraftChanged as error:
            messages.error(request, f"Nothing was registered: {error}. Read it again below.")
            return redirect("console:register_review", draft_id=wizard.draft.pk)
        messages.success(request, f"{target.slug} is registered. {_next(target)}")
        return redirect(_landing(target))
    context = wizard.context("review") | {
        "seen": drafts.digest(wizard.draft),
        "problems": proposal.problems,
        "sentences": sentences(proposal.target, proposal.origin) if proposal.target else [],
        "warnings": [finding for finding in proposal.findings if finding.state == State.WARNING],
        "is_on_sglang": bool(proposal.target and proposal.target.is_on_sglang),
    }
    return render(request, "console/register_review.html", context)


def _next(target: Target) -> str:
    if target.draft_version is not None:
        return f"Its first version is a copy of {target.draft_version}."
    if target.draft_path:
        return "Its first version is made of the imported draft."
    return "Its first version starts from random weights."


def _landing(target: Target) -> str:
    """The live page; of a target on SGLang, at its launch command."""
    return f"{redirect('console:target', slug=target.slug).url}{'#launch' if target.is_on_sglang else ''}"


@allow("register", "POST")
def save(request: HttpRequest, draft_id: UUID, step: str) -> HttpResponse:
    """Keep what is being typed, and answer with the check of it as a part of the page."""
    wizard = _open(request, draft_id)
    if step not in FORMS:
        raise Http404(f"there is no step {step!r:.40} that is saved")
    if isinstance(wizard, HttpResponse):
        return HttpResponse(headers={"HX-Redirect": wizard["location"]})
    drafts.save_step(wizard.draft, step, typed(request, FORMS[step]))
    wizard = Wizard(wizard.draft)
    if step == "source" and not _is_told(wizard):
        return HttpResponse("")
    form = wizard.source if step == "source" else wizard.plan
    if wrong := [error for errors in form.errors.values() for error in errors]:
        return render(request, "console/_check.html", {"problems": wrong})
    proposal = wizard.propose(user_of(request).username) if _is_told(wizard) else None
    if proposal is None:
        return HttpResponse("")
    findings = [f for f in proposal.findings if (f.topic in OF_PLAN) == (step == "plan")]
    context = {"problems": refused(findings), "facts": proposal.facts, "findings": findings, "step": step}
    return render(request, "console/_check.html", context | {"slug": proposal.slug})


def _is_told(wizard: Wizard) -> bool:
    """Whether a source has been typed at all: an empty form is no mistake yet."""
    given = wizard.draft.given.get("source", {})
    return any(given.get(name, "").strip() for name in ("path", "model_id", "replica"))


@allow("register", "POST")
@_of_own_draft
def discard(request: HttpRequest, wizard: Wizard) -> HttpResponse:
    drafts.discard(wizard.draft)
    messages.success(request, "The unfinished registration is thrown away.")
    return redirect("console:register")
