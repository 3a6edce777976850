"""Every write about intent: judge, approve, reject, promote, roll back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from aurora_web import live
from aurora_web.accounts.services import record
from aurora_web.metrics.mix import latest_requests
from aurora_web.registry.models import SpeculatorVersion, Status, Target
from aurora_web.registry.services import StaleVersion, find_version, lock_version, transition
from aurora_web.rollouts import canaries, telling
from aurora_web.rollouts.approvals import (
    EVERY_SCOPE,
    POLICY,
    check_is_fresh,
    check_may_approve,
    report_against,
    stale_verdict,
    waits_for_person,
)
from aurora_web.rollouts.gate import Live, Policy, decide
from aurora_web.rollouts.intent import RolloutError, lock_deployment, set_intent
from aurora_web.rollouts.models import Approval, Deployment, GateDecision, SwapKind
from aurora_web.rollouts.predicted import predicted_speedup, step_seconds
from aurora_web.rollouts.replayed import shares_of
from speculators.records import EvalReport

GATE = "gate"
MAX_PENDING = 5  # passed versions that wait for a person; older ones make room


def judge(version: SpeculatorVersion) -> GateDecision:
    """Put a candidate before the gate; under the automatic policy a passed one goes live at once. Idempotent."""
    with transaction.atomic():
        deployment = lock_deployment(version.target)
        version = lock_version(version)
        known = GateDecision.objects.filter(version=version).first()
        if known is not None:
            return known
        decision = _decide(version)
        reason = " ".join(decision.reasons)
        new = Status.PASSED if decision.passed else Status.REJECTED
        transition(version, Status.CANDIDATE, new, reason, GATE)
        needs_person = waits_for_person(version.target, deployment)
        is_free = not needs_person and deployment.canary is None  # else it waits for its turn: canaries.take_next
        is_free = is_free and not (decision.passed and canaries.is_postponed(deployment, version))
        is_day_zero = version.parent_id is None and find_version(version.target, "@live") is None
        if decision.passed and (is_free or is_day_zero):
            Approval.objects.create(version=version, is_approved=True, actor=POLICY, reason=reason)
            canaries.release(deployment, version, POLICY, reason)
        elif decision.passed:
            _make_room(version.target)
            telling.tell_waiting(deployment)
    live.publish(version.target_id, "gate", gate_payload(decision))
    return decision


@transaction.atomic
def judge_again(version: SpeculatorVersion, actor: str, reason: str = "") -> GateDecision:
    """Put a waiting version before the gate once more, against what is live now; it waits on, or is rejected.

    Raises RolloutError when it does not wait.
    """
    lock_deployment(version.target)
    version = lock_version(version)
    if version.status != Status.PASSED:
        raise RolloutError(f"{version} is {version.status}: only a version that waits can be judged again")
    old = GateDecision.objects.filter(version=version).first()
    facts = _decide_on(version, report_against(version, find_version(version.target, "@live"), old))
    decision, _ = GateDecision.objects.update_or_create(version=version, defaults=facts | {"requested_by": actor})
    detail = {"old": _verdict(old), "new": _verdict(decision)}
    record(actor, "version.judge", str(version), target_slug=version.target.slug, reason=reason, detail=detail)
    if not decision.passed:
        transition(version, Status.PASSED, Status.REJECTED, " ".join(decision.reasons), GATE)
    live.publish(version.target_id, "gate", gate_payload(decision))
    return decision


@transaction.atomic
def take_next(target: Target) -> bool:
    """The policy puts the version that waits into service: after a canary, a hold or a freeze. One with a stale verdict
    is judged again first. Where a person is waited for, people are told."""
    deployment = lock_deployment(target)
    telling.tell_waiting(deployment)
    version = canaries.next_in_turn(deployment)
    if version is not None and (why := stale_verdict(version)):
        judge_again(version, POLICY, why)
    return canaries.take_next(target)


def _verdict(decision: GateDecision | None) -> dict[str, Any]:
    if decision is None:
        return {}
    return {"passed": decision.passed, "gain": decision.gain, "live": decision.live_number}


def gate_payload(decision: GateDecision) -> dict[str, Any]:
    """A verdict as the browsers get it."""
    return {
        "number": decision.version.number,
        "passed": decision.passed,
        "reasons": decision.reasons,
        "domains": decision.domains,
        "gain": decision.gain,
        "at": decision.at.timestamp(),
    }


def _decide(version: SpeculatorVersion) -> GateDecision:
    report = report_against(version, find_version(version.target, "@live"), None)
    return GateDecision.objects.create(version=version, **_decide_on(version, report))


def _decide_on(version: SpeculatorVersion, report: EvalReport | None) -> dict[str, Any]:
    """The gate's verdict by the target's policy and what is live now, as fields of GateDecision."""
    target = version.target
    current = find_version(target, "@live")
    policy = Policy(
        min_gain=target.min_gain,
        domain_tolerance=target.domain_tolerance,
        min_held_out_traces=target.min_held_out_traces,
        live=_live_kind(current),
        live_num_traces=_num_traces(current),
    )
    requests = latest_requests(target)
    verdict = decide(report, policy, requests)
    return {
        **_predicted(target, report, requests),
        "passed": verdict.passed,
        "reasons": list(verdict.reasons),
        "domains": [d.to_json() for d in verdict.domains],
        "policy": policy.to_json(),
        "accept_length": verdict.accept_length,
        "gain": verdict.gain.value,
        "gain_low": verdict.gain.low,
        "gain_high": verdict.gain.high,
        "live_number": current.number if current else 0,
        "at": timezone.now(),
    }


def _predicted(target: Target, report: EvalReport | None, requests: Mapping[str, int]) -> dict[str, float | None]:
    if report is None or not report.live:
        return {"predicted_speedup": None, "live_predicted_speedup": None}
    shares, seconds = shares_of(requests, report.candidate, report.live), step_seconds(target)
    return {
        "predicted_speedup": predicted_speedup(report.candidate, shares, seconds),
        "live_predicted_speedup": predicted_speedup(report.live, shares, seconds),
    }


def _num_traces(current: SpeculatorVersion | None) -> int:
    """Held-out traces that stand behind what is live."""
    if current is None or current.is_imported:
        return current.target.min_held_out_traces if current else 0
    return sum(score["num_traces"] for score in (current.report or {}).get("candidate", []))


def _live_kind(current: SpeculatorVersion | None) -> Live:
    if current is None:
        return "none"
    if current.is_random:
        return "random"
    return "unjudged" if current.report is None and not current.is_imported else "judged"


def _make_room(target: Target) -> None:
    waiting = target.versions.filter(status=Status.PASSED).order_by("-number")
    for old in waiting[MAX_PENDING:]:
        transition(old, Status.PASSED, Status.REJECTED, f"{MAX_PENDING} newer versions wait for approval", POLICY)


def _expect(version: SpeculatorVersion, expected_status: str | None) -> SpeculatorVersion:
    version = lock_version(version)
    if expected_status is not None and version.status != expected_status:
        raise StaleVersion(f"{version} is {version.status}, not {expected_status} any more: reload and decide again")
    if version.status != Status.PASSED:
        raise RolloutError(f"{version} is {version.status}: only a version that passed the gate can be decided on")
    return version


@transaction.atomic
def approve(
    version: SpeculatorVersion,
    actor: str,
    reason: str = "",
    expected_status: str | None = None,
    scopes: frozenset[str] = EVERY_SCOPE,
) -> Deployment:
    """A person's yes: a passed version goes live, by a canary first where the policy says so.

    ``scopes``: what the person may do. Raises RolloutError, ApprovalRefused (the policy), registry.services
    .StaleVersion (somebody was faster), StaleJudgement (what is live has changed since the verdict).
    """
    deployment = lock_deployment(version.target)
    version = _expect(version, expected_status)
    check_may_approve(version, actor, scopes)
    check_is_fresh(version)
    deployment.is_held = False
    Approval.objects.create(version=version, is_approved=True, actor=actor, reason=reason)
    detail = {"old": {"approval": "waiting"}, "new": {"approval": "approved"}}
    record(actor, "version.approve", str(version), target_slug=version.target.slug, reason=reason, detail=detail)
    canaries.release(deployment, version, actor, reason or "approved")
    return deployment


@transaction.atomic
def reject(version: SpeculatorVersion, actor: str, reason: str = "", expected_status: str | None = None) -> None:
    """A person's no. Raises RolloutError, registry.services.StaleVersion."""
    lock_deployment(version.target)
    version = _expect(version, expected_status)
    Approval.objects.create(version=version, is_approved=False, actor=actor, reason=reason)
    transition(version, Status.PASSED, Status.REJECTED, reason or "rejected", actor)
    detail = {"old": {"approval": "waiting"}, "new": {"approval": "rejected"}}
    record(actor, "version.reject", str(version), target_slug=version.target.slug, reason=reason, detail=detail)


@transaction.atomic
def rollback(
    target: Target,
    actor: str,
    reason: str = "",
    to: str = "@previous",
    expected_live: int | None = None,
    expected_canary: int | None = None,
) -> Deployment:
    """A person puts an earlier version back into service; automatic promotion is held until somebody approves.

    ``expected_live``, ``expected_canary``: numbers of what the person saw (0 = none; None = whatever it is by now).
    Raises RolloutError when there is nothing to go back from or to, registry.services.StaleVersion when another
    version has gone live or into canary since.
    """
    deployment = lock_deployment(target)
    current, earlier = find_version(target, "@live"), find_version(target, to)
    if current is None:
        raise RolloutError(f"{target.slug} has no live version to roll back")
    if earlier is None:
        raise RolloutError(f"{target.slug} has no version {to:.80} to roll back to")
    if why := cannot_come_back(earlier):
        raise RolloutError(f"{earlier} cannot come back: {why}")
    if expected_live not in (None, current.number):
        would = f"this would take out v{current.number} and bring back v{earlier.number}"
        raise StaleVersion(f"{current} is live now, not v{expected_live} any more: {would}")
    if deployment.canary is not None and expected_canary not in (None, deployment.canary.number):
        raise StaleVersion(f"{deployment.canary} is in canary now: this would end its canary for good")
    deployment.is_held = True
    _go_back(deployment, current, earlier, SwapKind.ROLLBACK, actor, reason or "rolled back")
    return deployment


def cannot_come_back(version: SpeculatorVersion) -> str:
    """Why ``version`` cannot be put back into service; "" = it can."""
    if version.pruned_at is not None:
        return "its files were deleted"
    return "" if version.status in {Status.RETIRED, Status.ROLLED_BACK} else f"it is {version.status}"


def can_be_brought_back(target: Target) -> QuerySet[SpeculatorVersion]:
    """Every version that has served and whose files are kept, the newest first: by the rule of ``cannot_come_back``."""
    served = target.versions.filter(status__in=[Status.RETIRED, Status.ROLLED_BACK], pruned_at=None)
    return served.order_by("-number")


def _go_back(
    deployment: Deployment,
    current: SpeculatorVersion,
    earlier: SpeculatorVersion | None,
    kind: SwapKind,
    actor: str,
    reason: str,
) -> None:
    canaries.end(deployment, actor, f"v{current.number} was rolled back: {reason}")
    transition(current, Status.LIVE, Status.ROLLED_BACK, reason, actor)
    if earlier is not None:
        transition(earlier, earlier.status, Status.LIVE, f"back in place of v{current.number}: {reason}", actor)
    set_intent(deployment, earlier, kind=kind, actor=actor)
    detail = {"old": {"live": current.number}, "new": {"live": earlier.number if earlier else 0}}
    record(actor, "version.rollback", str(current), target_slug=deployment.target.slug, reason=reason, detail=detail)


@transaction.atomic
def revert(target: Target, generation: int, actor: str, reason: str) -> bool:
    """An automatic rollback of the swap of ``generation``; False when the intent has changed since.

    Without a previous version the target is served without speculation until the next candidate.
    """
    deployment = lock_deployment(target)
    current = find_version(target, "@live")
    if deployment.generation != generation or current is None or deployment.desired_id != current.pk:
        return False
    _go_back(deployment, current, find_version(target, "@previous"), SwapKind.REVERT, actor, reason)
    return True


@transaction.atomic
def resume(target: Target, actor: str) -> None:
    """Let the policy promote by itself again after a rollback."""
    deployment = lock_deployment(target)
    if deployment.is_held:
        deployment.is_held = False
        deployment.save(update_fields=["is_held"])
        detail = {"old": {"is_held": True}, "new": {"is_held": False}}
        record(actor, "target.resume", target.slug, target_slug=target.slug, detail=detail)
        live.publish(target.pk, "target", {"slug": target.slug, "change": "resumed"})
