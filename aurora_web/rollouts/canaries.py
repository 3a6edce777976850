"""Canary by replica: some replicas run a version first; it is promoted, or rolled back, on what both sides measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from aurora_web.accounts.services import record
from aurora_web.metrics.by_replica import sums_by_replica
from aurora_web.registry.models import SpeculatorVersion, Status, Target
from aurora_web.registry.services import StaleVersion, find_version, lock_version, transition
from aurora_web.rollouts import telling
from aurora_web.rollouts.approvals import EVERY_SCOPE, POLICY, check_may_approve, stale_verdict, waits_for_person
from aurora_web.rollouts.canary_verdict import Action, CanaryPolicy, CanaryVerdict, judge
from aurora_web.rollouts.fleet import Standing, standings
from aurora_web.rollouts.freeze import frozen
from aurora_web.rollouts.intent import (
    RolloutError,
    collapse_threshold,
    lock_deployment,
    put_live,
    set_intent,
    supersede,
)
from aurora_web.rollouts.models import Approval, Deployment, Replica, SwapKind

WATCH = "canary watch"
# A server that is started again, or a console that was away, is no reason to end a canary, nor to do without one.
MISSING_FOR = timedelta(minutes=5)  # a side of a canary, before that ends it
COMING_FOR = timedelta(minutes=10)  # that the policy waits with a version while replicas may still come back


@dataclass(frozen=True, slots=True)
class Plan:
    """On which replicas a canary would run; none = it goes straight, and ``reason`` says why."""

    replicas: tuple[Replica, ...]
    reason: str = ""
    is_coming: bool = False  # there are none, but enough that may soon be fit for it


def plan(target: Target) -> Plan:
    """The replicas of the next canary: the policy's share of those that can be compared, at least one and never all.

    The same ones come first every time (order of a digest of their names).
    """
    if target.canary_share <= 0:
        return Plan((), "")
    if find_version(target, "@live") is None:
        return Plan((), "No canary: no version is live to compare with.")
    if target.max_lookahead == 0:
        return Plan((), "No canary: speculation is off, so nothing of it could be compared.")
    found = standings(target)
    seen_since = timezone.now() - MISSING_FOR
    is_coming = sum(each.replica.is_alive or each.replica.seen_at > seen_since for each in found) >= 2
    num_alive = sum(each.replica.is_alive and each.replica.state != "starting" for each in found)
    able = sorted(
        (each.replica for each in found if _is_measured(each)),
        key=lambda replica: hashlib.sha256(replica.name.encode()).digest(),
    )
    if num_alive < 2:
        replicas = "1 replica is" if num_alive == 1 else f"{num_alive} replicas are"
        return Plan((), f"No canary: {replicas} alive, at least 2 are needed.", is_coming)
    if len(able) < 2:
        serve = f"{len(able)} of {num_alive} replicas {'serves' if len(able) == 1 else 'serve'}"
        return Plan((), f"No canary: {serve} the live version, at least 2 are needed.", is_coming)
    wanted = round(target.canary_share * len(able))
    return Plan(tuple(able[: min(max(wanted, 1), len(able) - 1)]))


def _is_measured(found: Standing) -> bool:
    """It serves what is wanted of it, or is on its way there: of any other replica nothing is ever compared."""
    is_there = found.progress == "up to date" and found.replica.version == found.desired_version
    return is_there or found.progress == "catching up"


def is_postponed(deployment: Deployment, version: SpeculatorVersion) -> bool:
    """Whether the policy waits with a version: replicas for its canary are missing, and may be back in a moment.

    ``version`` has a verdict. A person who approves it meanwhile is told that there will be no canary, and is obeyed.
    """
    since = max(deployment.changed_at, version.gate_decision.at)
    return timezone.now() - since < COMING_FOR and plan(version.target).is_coming


def release(deployment: Deployment, version: SpeculatorVersion, actor: str, reason: str) -> None:
    """Put a passed version into service, by a canary first where policy and replicas allow. Raises RolloutError."""
    if deployment.canary is not None:
        raise RolloutError(f"{deployment.canary} is in canary: promote or abort it first")
    planned = plan(version.target)
    if planned.replicas:
        _start(deployment, version, planned.replicas, actor, reason)
    else:
        put_live(deployment, version, actor, f"{reason} {planned.reason}".strip())


def _start(
    deployment: Deployment, version: SpeculatorVersion, replicas: tuple[Replica, ...], actor: str, reason: str
) -> None:
    names = ", ".join(replica.name for replica in replicas)
    num_alive = deployment.target.replicas.filter(is_alive=True).count()
    where = f"Canary on {len(replicas)} of {num_alive} replicas ({names})."
    transition(version, Status.PASSED, Status.CANARY, f"{where} {reason}", actor)
    supersede(deployment, version, actor)
    telling.forget(version)
    deployment.target.replicas.update(is_canary=False)
    deployment.target.replicas.filter(pk__in=[replica.pk for replica in replicas]).update(is_canary=True)
    set_intent(deployment, deployment.desired, canary=version, kind=SwapKind.CANARY, actor=actor)
    detail = {"old": {"status": Status.PASSED}, "new": {"status": Status.CANARY}}
    record(actor, "canary.start", str(version), target_slug=deployment.target.slug, reason=where, detail=detail)


@transaction.atomic
def promote(
    version: SpeculatorVersion,
    actor: str,
    reason: str = "",
    expected_status: str | None = None,
    scopes: frozenset[str] = EVERY_SCOPE,
) -> Deployment:
    """A person puts the canary on every replica.

    ``scopes``: what the person may do. Raises RolloutError, ApprovalRefused, registry.services.StaleVersion.
    """
    deployment = lock_deployment(version.target)
    version = _expect(deployment, version, expected_status)
    check_may_approve(version, actor, scopes)
    Approval.objects.create(version=version, is_approved=True, actor=actor, reason=reason)
    detail = {"old": {"status": Status.CANARY}, "new": {"status": Status.LIVE}}
    record(actor, "canary.promote", str(version), target_slug=version.target.slug, reason=reason, detail=detail)
    put_live(deployment, version, actor, reason or "canary promoted")
    return deployment


@transaction.atomic
def abort(version: SpeculatorVersion, actor: str, reason: str = "", expected_status: str | None = None) -> Deployment:
    """A person ends the canary: its replicas go back to the live version. Raises RolloutError, StaleVersion."""
    deployment = lock_deployment(version.target)
    version = _expect(deployment, version, expected_status)
    Approval.objects.create(version=version, is_approved=False, actor=actor, reason=reason)
    end(deployment, actor, reason or "canary aborted")
    set_intent(deployment, deployment.desired, kind=SwapKind.END_CANARY, actor=actor)
    return deployment


def _expect(deployment: Deployment, version: SpeculatorVersion, expected_status: str | None) -> SpeculatorVersion:
    version = lock_version(version)
    if expected_status is not None and version.status != expected_status:
        raise StaleVersion(f"{version} is {version.status}, not {expected_status} any more: reload and decide again")
    if version.status != Status.CANARY or deployment.canary_id != version.pk:
        raise RolloutError(f"{version} is {version.status}: only a canary can be promoted or aborted")
    return version


def end(deployment: Deployment, actor: str, reason: str) -> None:
    """The canary is rolled back, if there is one; the caller sets the next intent."""
    if deployment.canary is None:
        return
    transition(deployment.canary, Status.CANARY, Status.ROLLED_BACK, reason, actor)
    detail = {"old": {"status": Status.CANARY}, "new": {"status": Status.ROLLED_BACK}}
    subject = str(deployment.canary)
    record(actor, "canary.abort", subject, target_slug=deployment.target.slug, reason=reason, detail=detail)
    deployment.canary = None


@transaction.atomic
def fail(target: Target, generation: int, actor: str, reason: str) -> bool:
    """A replica of the canary says that its swap failed; False when the intent has changed since."""
    deployment = lock_deployment(target)
    if deployment.canary is None or deployment.generation != generation:
        return False
    end(deployment, actor, reason)
    set_intent(deployment, deployment.desired, kind=SwapKind.END_CANARY, actor=actor)
    return True


def verdict(deployment: Deployment, now: datetime) -> CanaryVerdict | None:
    """What the canary has measured so far; None when there is none."""
    version, started = deployment.canary, deployment.canary_started_at
    if version is None or started is None or deployment.desired is None:
        return None
    target = deployment.target
    names = set(target.replicas.filter(is_canary=True).values_list("name", flat=True))
    live = deployment.desired.number
    rows = sums_by_replica(target, started, [version.number, live])
    policy = CanaryPolicy(
        target.canary_minutes, target.canary_min_requests, target.domain_tolerance, collapse_threshold(version)
    )
    return judge(
        [row for row in rows if row.replica in names and row.version == version.number],
        [row for row in rows if row.replica not in names and row.version == live],
        policy,
        (now - started).total_seconds(),
    )


@transaction.atomic
def watch(target: Target, now: datetime) -> Action | None:
    """Promote or roll back the canary of a target when its measurements say so; None when there is none."""
    deployment = lock_deployment(target)
    found = verdict(deployment, now)
    if found is None or deployment.canary is None:
        return None
    action, reason = found.action, " ".join(found.reasons)
    if action == Action.PROMOTE and frozen(target) is not None:
        telling.tell_of_canary(deployment.canary, reason)
        return Action.WAIT  # a person promotes it, or unfreezes
    if action == Action.WAIT and (missing := _missing_for_long(deployment, now)):
        action, reason = Action.ROLL_BACK, missing
    if action == Action.PROMOTE:
        put_live(deployment, deployment.canary, WATCH, reason)
    elif action == Action.ROLL_BACK:
        end(deployment, WATCH, reason)
        set_intent(deployment, deployment.desired, kind=SwapKind.END_CANARY, actor=WATCH)
    return action


def _missing_for_long(deployment: Deployment, now: datetime) -> str:
    """Why nothing will ever be measured: a side has been missing for MISSING_FOR, and the minutes are over."""
    missing, since = _missing_side(deployment, now), deployment.canary_missing_since
    if bool(missing) != (since is not None):
        since = deployment.canary_missing_since = now if missing else None
        deployment.save(update_fields=["canary_missing_since"])
    if since is None or deployment.canary_started_at is None:
        return ""
    is_over = now - deployment.canary_started_at >= timedelta(minutes=deployment.target.canary_minutes)
    return missing if is_over and now - since >= MISSING_FOR else ""


def _missing_side(deployment: Deployment, now: datetime) -> str:
    """Why nothing can be measured now: replicas come, go and fail; "" = it can."""
    found = standings(deployment.target, now, deployment)
    alive = {each.replica.is_canary for each in found if each.replica.is_alive}
    sides = {each.replica.is_canary for each in found if _is_measured(each)}
    if True not in sides:
        does_not = "serves it" if True in alive else "reports any more"
        return f"No replica of the canary {does_not}, so nothing can be compared."
    if False not in alive:
        return "Only replicas of the canary report, so nothing can be compared."
    return "" if False in sides else f"No other replica serves {deployment.desired}, so nothing can be compared."


def next_in_turn(deployment: Deployment) -> SpeculatorVersion | None:
    """Where the policy decides, the newest version that has passed and waits; None = nothing to do."""
    target = deployment.target
    if deployment.canary is not None or waits_for_person(target, deployment):
        return None
    version = target.versions.filter(status=Status.PASSED).order_by("-number").first()
    current = find_version(target, "@live")
    return None if version is None or (current is not None and version.number < current.number) else version


@transaction.atomic
def take_next(target: Target) -> bool:
    """The next version in turn goes into service; never on a verdict against what is not live any more."""
    deployment = lock_deployment(target)
    version = next_in_turn(deployment)
    if version is None or stale_verdict(version) or is_postponed(deployment, version):
        return False
    Approval.objects.create(version=version, is_approved=True, actor=POLICY, reason="next in turn")
    release(deployment, version, POLICY, "Next in turn.")
    return True
