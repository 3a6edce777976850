"""Intent: approve, reject, roll back; and the calls of engines, traffic generator and supervisor."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Field, Query, Router

from aurora_web.accounts.auth import Allow, Reason, caller, said_by
from aurora_web.problems import Problem
from aurora_web.registry.models import SpeculatorVersion, Target
from aurora_web.registry.services import embedded_engines, find_target
from aurora_web.registry.traffic_reports import keep
from aurora_web.rollouts import canaries, replicas, services
from aurora_web.rollouts import freeze as freezes
from aurora_web.rollouts.alerts import alert_payload, firing_alerts
from aurora_web.rollouts.answers import (
    AlertOut,
    ComparisonOut,
    CurveOut,
    DeploymentOut,
    DesiredOut,
    FleetReplicaOut,
    FreezeOut,
    GateOut,
    HeldOut,
    RejectedOut,
    ReplicaOut,
    SwapOut,
    WaitingOut,
)
from aurora_web.rollouts.approvals import inbox, search, waiting_payload, waiting_versions
from aurora_web.rollouts.comparison import choose, compare, comparison_payload, curves_payload
from aurora_web.rollouts.fleet import fleet_standings, standing_payload, standings
from aurora_web.rollouts.intent import deployment_payload, desired_state
from aurora_web.rollouts.services import gate_payload
from aurora_web.rollouts.swaps import find_swap, progress, recent_swaps, swap_payload
from aurora_web.wire import BodySchema, Documented, ReasonText, body_schema, read_json
from speculators.records import ObservedState

ingest_router = Router(tags=["ingest"], auth=Allow("ingest"))
machine_router = Router(tags=["machines"], auth=Allow("ingest"))
read_router = Router(tags=["targets"], auth=Allow("read"))
version_router = Router(tags=["versions"], auth=Allow("operate"))
target_router = Router(tags=["targets"], auth=Allow("operate"))


class Decision(BodySchema):
    """Why; and the status that the caller saw: 409 when it has changed since."""

    reason: ReasonText = ""
    expected_status: str | None = None


class RollbackIn(BodySchema):
    """Why, and to what: a number, or ``@previous``, what was live last before that which is live when the call comes.

    ``expected_live``, ``expected_canary``: the numbers that the caller saw live and in canary (0 = none); 409 when
    another version has come since. Without them whatever is live goes, and whatever is in canary ends.
    """

    reason: ReasonText = ""
    to: str = "@previous"
    expected_live: int | None = None
    expected_canary: int | None = None


class TrafficReportIn(BodySchema):
    """Of one target: ``num_requests`` were answered; ``problem`` says why its settings cannot be followed."""

    slug: str
    seconds: float = Field(ge=0, le=1e6)
    num_requests: int = Field(ge=0, le=2**31 - 1)
    num_failures: int = Field(ge=0, le=2**31 - 1)
    last_failure: str = ""
    problem: str = ""


class TrafficReports(BodySchema):
    targets: list[TrafficReportIn] = Field(max_length=1000)


def _version(version_id: int) -> SpeculatorVersion:
    version = SpeculatorVersion.objects.select_related("target").filter(pk=version_id).first()
    if version is None:
        raise Problem(404, f"there is no version with the id {version_id}")
    return version


@version_router.post("/{int:version_id}/approve", response=DeploymentOut)
def approve(request: HttpRequest, version_id: int, body: Decision | None = None) -> dict[str, Any]:
    """Put a version that passed the gate into service, by a canary first where the policy says so."""
    body, who = body or Decision(), caller(request)
    version = _version(version_id)
    return deployment_payload(services.approve(version, who.name, body.reason, body.expected_status, who.scopes))


@version_router.post("/{int:version_id}/judge", response=GateOut)
def judge_again(request: HttpRequest, version_id: int, body: Decision | None = None) -> dict[str, Any]:
    """Put a waiting version before the gate again, against what is live now; it waits on, or is rejected."""
    body = body or Decision()
    return gate_payload(services.judge_again(_version(version_id), caller(request).name, body.reason))


@version_router.post("/{int:version_id}/reject", response=RejectedOut)
def reject(request: HttpRequest, version_id: int, body: Decision | None = None) -> dict[str, Any]:
    """Turn a version that passed the gate down."""
    body = body or Decision()
    actor = caller(request).name
    services.reject(_version(version_id), actor, body.reason, body.expected_status)
    return {"id": version_id, "status": "rejected"}


@version_router.post("/{int:version_id}/canary/promote", response=DeploymentOut)
def promote_canary(request: HttpRequest, version_id: int, body: Decision | None = None) -> dict[str, Any]:
    """Put a version in canary on every replica."""
    body, who = body or Decision(), caller(request)
    version = _version(version_id)
    return deployment_payload(canaries.promote(version, who.name, body.reason, body.expected_status, who.scopes))


@version_router.post("/{int:version_id}/canary/abort", response=DeploymentOut)
def abort_canary(request: HttpRequest, version_id: int, body: Decision | None = None) -> dict[str, Any]:
    """Take a version in canary off its replicas again; it is rolled back."""
    body = body or Decision()
    actor = caller(request).name
    return deployment_payload(canaries.abort(_version(version_id), actor, body.reason, body.expected_status))


@target_router.post("/{slug}/rollback", response=DeploymentOut)
def rollback(request: HttpRequest, slug: str, body: RollbackIn | None = None) -> dict[str, Any]:
    """Put an earlier version back; nothing goes live by itself until somebody approves or resumes."""
    body = body or RollbackIn()
    expected = (body.expected_live, body.expected_canary)
    found = services.rollback(find_target(slug), caller(request).name, body.reason, body.to, *expected)
    return deployment_payload(found)


@target_router.post("/{slug}/resume", response=HeldOut)
def resume(request: HttpRequest, slug: str) -> dict[str, Any]:
    """Let the policy promote by itself again after a rollback."""
    target = find_target(slug)
    services.resume(target, caller(request).name)
    return {"target": slug, "is_held": False}


@target_router.get("/{slug}/freeze", response=FreezeOut, auth=Allow("read"))
def freeze_state(request: HttpRequest, slug: str) -> dict[str, Any]:
    """Whether versions may go live by themselves, and who said no, when and why."""
    target = find_target(slug)
    return freezes.freeze_payload(target, freezes.frozen(target))


@target_router.post("/{slug}/freeze", response=FreezeOut)
def freeze(request: HttpRequest, slug: str, body: Reason | None = None) -> dict[str, Any]:
    """No version goes live by itself until somebody unfreezes. 409 when it is frozen already."""
    target = find_target(slug)
    return freezes.freeze_payload(target, freezes.freeze(target, *said_by(request, body)))


@target_router.post("/{slug}/unfreeze", response=FreezeOut)
def unfreeze(request: HttpRequest, slug: str, body: Reason | None = None) -> dict[str, Any]:
    """The policy decides again. 409 when nothing is frozen."""
    target = find_target(slug)
    freezes.unfreeze(target, *said_by(request, body))
    return freezes.freeze_payload(target, None)


@target_router.get("/{slug}/replicas", response=list[ReplicaOut], auth=Allow("read"))
def list_replicas(request: HttpRequest, slug: str) -> list[dict[str, Any]]:
    """What each replica last reported beside what is desired of it, its proof, and its capture."""
    return [standing_payload(found) for found in standings(find_target(slug))]


@target_router.get("/{slug}/alerts", response=list[AlertOut], auth=Allow("read"))
def list_alerts(request: HttpRequest, slug: str, state: str = "firing") -> list[dict[str, Any]]:
    """Alerts, newest first: ``state`` firing (default) or all (the last 200, with those that have ended)."""
    if state not in {"firing", "all"}:
        raise Problem(422, f"state is {state!r:.80}, expected firing or all")
    target = find_target(slug)
    found = firing_alerts(target) if state == "firing" else target.alerts.all()[:200]
    return [alert_payload(alert) for alert in found]


@target_router.get("/{slug}/swaps", response=list[SwapOut], by_alias=True, auth=Allow("read"))
def list_swaps(request: HttpRequest, slug: str, limit: int = 20) -> list[dict[str, Any]]:
    """Changes of intent, newest first, each with the seconds until every replica ran it."""
    if not 1 <= limit <= 200:
        raise Problem(422, f"limit is {limit}, expected 1 to 200")
    return [swap_payload(found) for found in recent_swaps(find_target(slug), limit)]


@target_router.get("/{slug}/swaps/{int:generation}", response=SwapOut, by_alias=True, auth=Allow("read"))
def get_swap(request: HttpRequest, slug: str, generation: int) -> dict[str, Any]:
    """One change of intent: when each replica said that it runs it."""
    swap = find_swap(find_target(slug), generation)
    if swap is None:
        raise Problem(404, f"{slug} has no swap of the generation {generation}")
    return swap_payload(progress(swap))


@target_router.get(
    "/{slug}/versions/compare", response=Annotated[dict[str, Any], Documented(ComparisonOut)], auth=Allow("read")
)
def compare_versions(request: HttpRequest, slug: str, v: Query[list[str]]) -> dict[str, Any]:
    """Two to four versions side by side (v=3&v=7); the first is what the others are compared with."""
    target = find_target(slug)
    return comparison_payload(target, compare(target, choose(target, v)))


@target_router.get(
    "/{slug}/versions/curves", response=Annotated[list[dict[str, Any]], Documented(list[CurveOut])], auth=Allow("read")
)
def version_curves(request: HttpRequest, slug: str, v: Query[list[str]]) -> list[dict[str, Any]]:
    """Measured accept length over time of two to four versions, as counts, and what their replay gave."""
    target = find_target(slug)
    return curves_payload(target, choose(target, v))


@read_router.get("/approvals", response=list[WaitingOut])
def list_approvals(request: HttpRequest, target: str = "", state: str = "all") -> list[dict[str, Any]]:
    """What waits for a person over all targets, longest first: at most 200. ``state``: waiting, canary or all."""
    if state not in {"waiting", "canary", "all"}:
        raise Problem(422, f"state is {state!r:.80}, expected waiting, canary or all")
    who = caller(request)
    found = search(waiting_versions(), target, state)[:200]
    return [waiting_payload(line) for line in inbox(found, who.name, who.scopes)]


@read_router.get("/replicas", response=list[FleetReplicaOut])
def fleet(request: HttpRequest) -> list[dict[str, Any]]:
    """Every replica of every target: what it last reported beside what is desired of it."""
    found = fleet_standings()
    return [{"target": each.replica.target.slug, **standing_payload(each)} for each in found]


@ingest_router.post(
    "/observed",
    response=dict[str, Any],
    openapi_extra=body_schema("An ObservedState (speculators/records.py)", {"replica": {"type": "string"}}),
)
def observed(request: HttpRequest) -> dict[str, Any]:
    """What a replica runs; the answer is what it should run (DesiredState)."""
    return replicas.observe(ObservedState.from_json(read_json(request))).to_json()


@ingest_router.post("/traffic", response=dict[str, int])
def traffic_reports(request: HttpRequest, body: TrafficReports) -> dict[str, int]:
    """What the demo's traffic generator has sent since its last report, and what failed of it."""
    return {"kept": keep([report.dict() for report in body.targets])}


@machine_router.get("/targets/{slug}/desired", response=Annotated[dict[str, Any], Documented(DesiredOut)])
def desired(request: HttpRequest, slug: str, replica: str = "") -> dict[str, Any]:
    """The intent for one target (DesiredState), or for one replica of it: a canary's replicas have their own."""
    target = find_target(slug)
    return desired_state(target, target.replicas.filter(name=replica).first()).to_json()


@machine_router.get("/traffic", response=dict[str, Any])
def traffic(request: HttpRequest) -> dict[str, Any]:
    """What the demo's traffic generator should send, and where."""
    return {"targets": [t.traffic() | {"engine_url": replicas.engine_url(t)} for t in Target.objects.all()]}


@machine_router.get("/engines", response=dict[str, Any])
def engines(request: HttpRequest) -> dict[str, Any]:
    """The targets that should have an embedded engine on this machine."""
    return {"engines": embedded_engines()}
