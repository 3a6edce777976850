"""What waits for a person: who may decide, and what has gone stale."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from django.db.models import Q, QuerySet, prefetch_related_objects

from aurora_web.accounts.scopes import ADMINISTER, SCOPES, allows
from aurora_web.registry.models import ApprovalPolicy, Approvers, SpeculatorVersion, Status, Target
from aurora_web.registry.services import StaleVersion, find_version
from aurora_web.rollouts.freeze import frozen
from aurora_web.rollouts.intent import RolloutError
from aurora_web.rollouts.models import Deployment, GateDecision
from speculators.records import DomainScore, EvalReport

EVERY_SCOPE = SCOPES["admin"]  # of scripts and of the policy itself
POLICY = "policy"  # as an actor


class ApprovalRefused(RolloutError):
    """The target's policy does not let this person approve this version."""


class StaleJudgement(StaleVersion):
    """What is live has changed since the gate judged the version: it has to be judged again."""


def requester(version: SpeculatorVersion, decision: GateDecision | None) -> str:
    """Whose wish a version is; "" = the trainer's.

    Who had it judged again, else who told the trainer to make it now, else who registered the draft that it is.
    """
    if decision is not None and decision.requested_by not in {"", POLICY}:
        return decision.requested_by
    if asked := [piece.requested_by for piece in version.slices.all() if piece.requested_by]:
        return asked[0]
    return version.target.created_by if version.parent_id is None and version.is_imported else ""


def refusal(version: SpeculatorVersion, decision: GateDecision | None, actor: str, scopes: Collection[str]) -> str:
    """Why ``actor`` may not approve ``version`` by the target's policy; "" = may."""
    target = version.target
    if target.approvers == Approvers.ADMIN and not allows(scopes, ADMINISTER):
        return f"on {target.slug} only an admin may approve"
    if not target.may_approve_own and actor and requester(version, decision) == actor:
        return f"{actor} asked for {version}: on {target.slug} somebody else has to approve it"
    return ""


def waits_for_person(target: Target, deployment: Deployment) -> bool:
    """A version that passes is let in by nobody but a person: by policy, after a rollback, or while frozen."""
    return target.approval == ApprovalPolicy.MANUAL or deployment.is_held or frozen(target) is not None


def waiting_for_person() -> QuerySet[SpeculatorVersion]:
    """What nobody but a person lets in, over all targets: by the rule of ``waits_for_person`` what has passed, and a
    canary that would be live if its target was not frozen."""
    is_frozen = Q(target__freeze__isnull=False)
    waits = Q(target__approval=ApprovalPolicy.MANUAL) | Q(target__deployment__is_held=True) | is_frozen
    is_held_back = Q(status=Status.CANARY, gate_decision__told_at__isnull=False) & is_frozen
    found = SpeculatorVersion.objects.filter(status__in=[Status.PASSED, Status.CANARY]).order_by()
    return found.filter(Q(status=Status.PASSED) & waits | is_held_back)


def staleness(decision: GateDecision | None, live_number: int) -> str:
    """What has changed since the verdict; "" = nothing."""
    if decision is None or decision.live_number is None or decision.live_number == live_number:
        return ""
    then = f"against v{decision.live_number}" if decision.live_number else "when nothing was live"
    now = f"v{live_number} is live now" if live_number else "nothing is live now"
    return f"judged {then}, but {now}"


def check_may_approve(version: SpeculatorVersion, actor: str, scopes: Collection[str]) -> None:
    """Raises ApprovalRefused."""
    decision = GateDecision.objects.filter(version=version).first()
    if why := refusal(version, decision, actor, scopes):
        raise ApprovalRefused(why)


def stale_verdict(version: SpeculatorVersion) -> str:
    """What has changed since the version's verdict; "" = nothing."""
    decision = GateDecision.objects.filter(version=version).first()
    return staleness(decision, live_number(version.target))


def check_is_fresh(version: SpeculatorVersion) -> None:
    """Raises StaleJudgement."""
    if why := stale_verdict(version):
        raise StaleJudgement(f"{version} was {why}: have it judged again")


def live_number(target: Target) -> int:
    """The number of what is live; 0 = nothing."""
    current = find_version(target, "@live")
    return current.number if current else 0


def report_against(
    version: SpeculatorVersion, current: SpeculatorVersion | None, old: GateDecision | None
) -> EvalReport | None:
    """The version's replay beside that of what is live now; ``old``: the verdict so far.

    Where that is not what it was replayed with, the live side is the live version's own replay: of other held-out
    traces, so the pairs are void and the interval is the wider one of independent samples. What was replayed with
    another largest lookahead is no measure: of it the names of the domains are left, and no gain can be known.
    """
    if version.report is None:
        return None
    report = EvalReport.from_json(version.report)
    if current is None:
        return replace(report, live=())
    is_same = report.live_uri == current.uri
    if not report.live_uri:  # an older report does not say; its first verdict does
        is_same = old is None or (old.live_number == current.number and not old.requested_by)
    if is_same:
        return report
    live: tuple[DomainScore, ...] = ()
    if current.report:
        theirs = EvalReport.from_json(current.report)
        is_comparable = theirs.lookahead == report.lookahead
        live = theirs.candidate if is_comparable else tuple(_without_steps(score) for score in theirs.candidate)
    return replace(report, candidate=tuple(replace(score, num_paired=0) for score in report.candidate), live=live)


def _without_steps(score: DomainScore) -> DomainScore:
    return DomainScore(score.domain, score.num_traces, 0, 0, 0, 0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Waiting:
    """One line of the inbox."""

    version: SpeculatorVersion
    decision: GateDecision | None
    live_number: int
    deployment: Deployment | None
    requester: str  # "" = the trainer
    refusal: str

    @property
    def is_canary(self) -> bool:
        return self.version.status == Status.CANARY

    @property
    def stale(self) -> str:
        return "" if self.is_canary else staleness(self.decision, self.live_number)

    @property
    def is_blocked(self) -> bool:
        """Another version of the target is in canary, which has to end first."""
        return not self.is_canary and self.deployment is not None and self.deployment.canary_id is not None

    @property
    def worst(self) -> dict[str, Any] | None:
        """The domain with the least gain; None where nothing is compared."""
        known = [d for d in (self.decision.domains if self.decision else []) if d.get("gain") is not None]
        return min(known, key=lambda domain: domain["gain"]) if known else None


def waiting_versions() -> QuerySet[SpeculatorVersion]:
    """Versions that a person may decide on, those that have waited longest first."""
    found = SpeculatorVersion.objects.filter(status__in=[Status.PASSED, Status.CANARY])
    return found.select_related("target", "parent", "gate_decision").order_by("gate_decision__at", "pk")


def inbox(versions: Iterable[SpeculatorVersion], actor: str, scopes: Collection[str]) -> list[Waiting]:
    """Lines for these versions; three queries however many they are."""
    versions = list(versions)
    prefetch_related_objects(versions, "slices")
    targets = {version.target_id for version in versions}
    lives = dict(
        SpeculatorVersion.objects.filter(target__in=targets, status=Status.LIVE).values_list("target_id", "number")
    )
    deployments = {
        row.target_id: row
        for row in Deployment.objects.filter(target__in=targets).select_related("canary", "desired", "target")
    }
    found = []
    for version in versions:
        decision = getattr(version, "gate_decision", None)
        deployment = deployments.get(version.target_id)
        why = refusal(version, decision, actor, scopes)
        live, asked_by = lives.get(version.target_id, 0), requester(version, decision)
        found.append(Waiting(version, decision, live, deployment, asked_by, why))
    return found


def search(versions: QuerySet[SpeculatorVersion], target: str, state: str) -> QuerySet[SpeculatorVersion]:
    """Narrowed to one target (slug; "" = all) and to ``waiting``, ``canary`` or all."""
    if target:
        versions = versions.filter(target__slug=target)
    states = {"waiting": Q(status=Status.PASSED), "canary": Q(status=Status.CANARY)}
    return versions.filter(states[state]) if state in states else versions


def waiting_payload(found: Waiting) -> dict[str, Any]:
    """A line of the inbox as the API gives it."""
    decision = found.decision
    return {
        "id": found.version.pk,
        "target": found.version.target.slug,
        "number": found.version.number,
        "status": found.version.status,
        "since": decision.at.timestamp() if decision else None,
        "gain": decision.gain if decision else None,
        "gain_low": decision.gain_low if decision else None,
        "gain_high": decision.gain_high if decision else None,
        "reasons": decision.reasons if decision else [],
        "domains": decision.domains if decision else [],
        "worst_domain": found.worst,
        "judged_against": decision.live_number if decision else None,
        "live": found.live_number,
        "stale": found.stale,
        "requested_by": found.requester,
        "refusal": found.refusal,
        "path": f"/approvals/{found.version.pk}/",
    }
