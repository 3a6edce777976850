"""Targets and versions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from ninja import Body, Field, ModelSchema, Router, Schema
from ninja.params.functions import Query as Param

from aurora_web.accounts import scopes
from aurora_web.accounts.auth import Allow, caller
from aurora_web.accounts.services import create_token
from aurora_web.moments import moment_of
from aurora_web.problems import Problem
from aurora_web.registry import announcements, bulk, packages, services
from aurora_web.registry.answers import LaunchOut, RefusedEntryOut
from aurora_web.registry.checks import MAX_TOKENS_PER_SECOND, TOKENS_PER_SECOND
from aurora_web.registry.launch import launch_payload
from aurora_web.registry.models import AnnouncedReplica, SpeculatorVersion, Status, Target
from aurora_web.registry.services import find_target
from aurora_web.registry.version_search import LONGEST_TEXT, SORTS, page, search
from aurora_web.wire import BodySchema, Documented, body_schema, read_json
from speculators.records import Announcement

router = Router(tags=["targets"], auth=Allow("read"))
announced_router = Router(tags=["targets"], auth=Allow("read"))
ingest_router = Router(tags=["ingest"], auth=Allow("ingest"))
PAGE = 50
MAX_REASON = 500
SINCE: Any = Param("", description="ISO 8601 (UTC without an offset) or Unix seconds")
TEXT: Any = Param("", description="a number (7 or v7), the beginning of a checksum, or words of the gate's reasons")


class TargetOut(ModelSchema):
    expected_domains: list[str]
    traffic_mix: dict[str, float]
    traffic_schedule: list[dict[str, Any]] = Field(description="phases: seconds and a mix, again and again")

    class Meta:
        model = Target
        exclude = ["id", "config"]


class TargetIn(BodySchema):
    """A model to serve, and the policy fields that should differ from their defaults."""

    source: str = Field("embedded", description="embedded, or sglang for servers of yours with Aurora's plugin")
    path: str = Field("", description="absolute checkpoint directory, read by engine and trainer")
    model_id: str = Field("", description="sglang, instead of path: what SGLang is told to load")
    config: dict[str, Any] | None = Field(None, description="config.json of a model id that is not on this disk")
    replica: str = Field("", description="sglang, instead of path: slug/name of a server that has reported itself")
    draft_path: str = Field("", description="EAGLE-3 checkpoint that version 1 is made of; empty = random weights")
    draft_version: str = Field("", description="instead of draft_path: another target's version to copy, like demo:3")
    slug: str = ""
    name: str = ""
    traffic_enabled: bool = False
    policy: dict[str, Any] = Field(
        default_factory=dict, description="approval, min_gain, expected_domains, trace_days, ..."
    )


class FindingOut(Schema):
    topic: str
    state: str = Field(description="ok, warning or refused")
    says: str
    fix: str
    how: str = Field(description="the formula behind an estimate")


class CheckOut(Schema):
    slug: str
    is_valid: bool
    findings: list[FindingOut]


class BulkIn(BodySchema):
    """Several targets. Entries are checked one by one, so that each of them has its own answer."""

    targets: list[dict[str, Any]] = Field(description="each with the fields of POST /api/v1/targets")
    mode: str = Field("all", description="all = every one or none; valid = those that can be registered")
    dry_run: bool = Field(False, description="true: say what the check finds of each, and register nothing")


class EntryOut(CheckOut):
    number: int = Field(description="from 1")
    is_registered: bool = Field(description="before, from the same origin: it would be left alone")


class BulkCheckOut(Schema):
    """What a dry run of several registrations found."""

    is_possible: bool = Field(description="whether the same body without dry_run is taken")
    entries: list[EntryOut]


class PackageOut(Schema):
    name: str = Field(description="what path of a registration may be")
    title: str
    license: str
    path: str


class BulkOut(Schema):
    created: list[TargetOut]
    refused: Annotated[list[dict[str, Any]], Documented(list[RefusedEntryOut])]
    unchanged: list[str] = Field(description="slugs that were registered before, from the same origin: left alone")


class AnnouncedOut(Schema):
    slug: str
    name: str
    engine: str
    url: str
    model_path: str
    draft_path: str
    aux_layer_ids: list[int]
    seen_at: datetime


class VersionOut(Schema):
    id: int
    target: str
    number: int
    parent: int | None
    status: str
    uri: str
    sha256: str
    size_bytes: int
    provenance: dict[str, Any]
    report: dict[str, Any] | None
    accept_length: float | None = Field(description="by replay, every held-out trace alike; its verdict weighs domains")
    created_at: datetime

    @staticmethod
    def resolve_target(version: SpeculatorVersion) -> str:
        return version.target.slug

    @staticmethod
    def resolve_parent(version: SpeculatorVersion) -> int | None:
        return version.parent.number if version.parent else None

    @staticmethod
    def resolve_accept_length(version: SpeculatorVersion) -> float | None:
        return version.accept_length()


class VersionPage(Schema):
    items: list[VersionOut]
    next: str | None = Field(description="pass as cursor to get the next page; null on the last")


@router.get("", response=list[TargetOut])
def list_targets(request: HttpRequest) -> list[Target]:
    """Every target, by slug."""
    return list(Target.objects.all())


@router.post("", response={201: TargetOut}, auth=Allow("register"))
def create_target(request: HttpRequest, body: TargetIn) -> tuple[int, Target]:
    """Register a target; 422 lists every problem found. Version 1 is made within a second."""
    actor = caller(request).name
    entry = bulk.check_one(body.dict(), actor)
    if not entry.is_valid or entry.proposal is None or entry.proposal.target is None:
        raise services.IncompatibleTarget(entry.problems)
    return 201, services.register_proposed(entry.proposal.target, actor)


@router.post("/check", response=CheckOut, auth=Allow("register"))
def check_target(request: HttpRequest, body: TargetIn, tokens_per_second: float = TOKENS_PER_SECOND) -> dict[str, Any]:
    """The compatibility check of a registration, a line per thing with its fix; nothing is made."""
    if not 0 < tokens_per_second <= MAX_TOKENS_PER_SECOND:
        raise Problem(
            422, f"tokens_per_second is {tokens_per_second}, expected more than 0, at most {MAX_TOKENS_PER_SECOND:,g}"
        )
    found = bulk.check_one(body.dict(), caller(request).name, tokens_per_second=tokens_per_second)
    return {"slug": found.slug, "is_valid": found.is_valid, "findings": [line.to_json() for line in found.findings]}


@router.post("/bulk", response={200: BulkCheckOut, 201: BulkOut}, auth=Allow("register"))
def create_targets(request: HttpRequest, body: BulkIn) -> tuple[int, dict[str, Any]]:
    """Register several targets; 422 when none was, with the problems of each entry. 200 is the answer of a dry run."""
    if body.mode not in bulk.MODES:
        raise Problem(422, f"mode is {body.mode!r:.40}, expected one of {', '.join(bulk.MODES)}")
    actor = caller(request).name
    try:
        entries = bulk.check_all(bulk.checked_list(body.targets), actor)
        if body.dry_run:
            return 200, _checked(entries, body.mode)
        made = bulk.register_all(entries, actor, body.mode)
    except bulk.RegistrationFileError as error:
        raise Problem(422, str(error)) from error
    except bulk.BulkRefused as error:
        raise Problem(422, str(error), errors=[_entry_problem(entry) for entry in error.entries]) from error
    refused = [_entry_problem(entry) for entry in entries if not entry.is_valid]
    return 201, {"created": made, "refused": refused, "unchanged": [e.known.slug for e in entries if e.known]}


def _checked(entries: list[bulk.Entry], mode: str) -> dict[str, Any]:
    lines = [
        {
            "number": entry.number,
            "slug": entry.slug,
            "is_valid": entry.is_valid,
            "is_registered": entry.known is not None,
            "findings": [finding.to_json() for finding in entry.findings],
        }
        for entry in entries
    ]
    return {"is_possible": bulk.is_possible(entries, mode), "entries": lines}


def _entry_problem(entry: bulk.Entry) -> dict[str, Any]:
    detail = " ".join(entry.problems)
    return {"number": entry.number, "slug": entry.slug, "status": 422, "detail": detail, "errors": entry.problems}


@router.get("/{slug}", response=TargetOut)
def get_target(request: HttpRequest, slug: str) -> Target:
    return find_target(slug)


@router.get("/{slug}/launch", response=Annotated[dict[str, Any], Documented(LaunchOut)])
def launch_command(request: HttpRequest, slug: str, variant: str = "gpu", replica: int = 1) -> dict[str, Any]:
    """How to start the ``replica``-th SGLang server of a target: environment, arguments, and both as one command."""
    target = find_target(slug)
    if not target.is_on_sglang:
        raise Problem(409, f"{slug} is served by the embedded engine, which starts by itself")
    try:
        return launch_payload(target, variant, replica)
    except ValueError as error:
        raise Problem(422, str(error)) from error


@router.post("/{slug}/replica-token", response={201: dict[str, str]}, auth=Allow("operate"))
def create_replica_token(request: HttpRequest, slug: str, response: HttpResponse) -> tuple[int, dict[str, str]]:
    """A token with which this target's servers report; it is shown this once."""
    actor = caller(request).name
    _, secret = create_token(f"replicas of {find_target(slug).slug}", "replica", actor)
    response["Cache-Control"] = "no-store"
    return 201, {"token": secret}


@router.patch("/{slug}", response=TargetOut, auth=Allow("operate"))
def change_target(request: HttpRequest, slug: str, body: Body[dict[str, Any]]) -> Target:
    """Change traffic settings (operator), or policy, name and is_active (admin); ``reason`` beside them is kept."""
    principal = caller(request)
    reason = body.pop("reason", "")
    if not isinstance(reason, str) or len(reason) > MAX_REASON:
        raise Problem(
            422, f"reason is {reason!r:.80}: expected text of at most {MAX_REASON} characters", field="reason"
        )
    if set(body) - set(services.TRAFFIC_FIELDS):
        scopes.check("administer", principal.scopes, principal.name)
    return services.change_settings(find_target(slug), body, principal.name, reason)


@router.get("/{slug}/versions", response=VersionPage)
def list_versions(
    request: HttpRequest,
    slug: str,
    cursor: str = "",
    limit: int = PAGE,
    status: str = "",
    since: str = SINCE,
    q: str = TEXT,
    sort: str = "newest",
) -> dict[str, Any]:
    """Versions of a ``status``, registered ``since`` then, or with ``q`` in number, checksum or gate; ``sort``:
    newest, oldest, gain (largest first) or loss (smallest gain first)."""
    if not 1 <= limit <= 500:
        raise Problem(422, f"limit is {limit}, expected 1 to 500")
    if status and status not in Status.values:
        raise Problem(422, f"status is {status!r:.40}, expected one of {', '.join(Status.values)}")
    if len(q) > LONGEST_TEXT:
        raise Problem(422, f"q is {q!r:.40}, expected at most {LONGEST_TEXT} characters of text")
    matching = search(find_target(slug), status=status, created_since=moment_of("since", since), text=q)
    if sort not in SORTS:
        raise Problem(422, f"sort is {sort!r:.40}, expected one of {', '.join(SORTS)}")
    if cursor and not (cursor.isascii() and cursor.isdigit()):
        raise Problem(422, f"cursor is {cursor!r:.80}, expected the value of next")
    found, following = page(matching.select_related("target", "parent"), sort, int(cursor[:9] or 0), limit)
    return {"items": found, "next": following}


@announced_router.get("/announced", response=list[AnnouncedOut])
def list_announced(request: HttpRequest) -> list[AnnouncedReplica]:
    """Servers that report for a target that is not registered: sources for POST /api/v1/targets."""
    return announcements.announced_replicas()


@announced_router.get("/packages", response=list[PackageOut])
def list_packages(request: HttpRequest) -> list[packages.Package]:
    """Models that are prepared on the console's machine: a registration may name one as its path."""
    return packages.prepared()


@announced_router.post("/announced/token", response={201: dict[str, str]}, auth=Allow("register"))
def create_enrolment_token(request: HttpRequest, response: HttpResponse) -> tuple[int, dict[str, str]]:
    """A token with which servers report themselves before their target is registered; it is shown this once."""
    _, secret = create_token("enrolment of servers", "replica", caller(request).name)
    response["Cache-Control"] = "no-store"
    return 201, {"token": secret}


@ingest_router.post(
    "/announce",
    response=dict[str, bool],
    openapi_extra=body_schema("An Announcement (speculators/records.py)", {"replica": {"type": "string"}}),
)
def announce(request: HttpRequest) -> dict[str, bool]:
    """What a server says about its model when /ingest/observed knows no target of its name; true = it is listed."""
    return {"announced": announcements.announce(Announcement.from_json(read_json(request)))}
