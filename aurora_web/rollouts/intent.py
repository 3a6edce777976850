"""The console's intent for a target: one locked row, changed one generation at a time."""

from __future__ import annotations

from typing import Any

from django.db.models import Exists
from django.utils import timezone

from aurora_web import live
from aurora_web.accounts.services import record
from aurora_web.locks import lock_row
from aurora_web.registry.models import SpeculatorVersion, Status, Target
from aurora_web.registry.services import find_version, transition
from aurora_web.rollouts.models import Deployment, Replica, Swap, SwapKind
from aurora_web.traces.pins import desired_pins
from speculators.records import DesiredState

# A swap has collapsed when less than this share of the replayed gain (accept_length - 1) is left.
COLLAPSE_SHARE = 0.2
MIN_REPLAY_ACCEPT_LENGTH = 1.5  # below it there is no gain to lose
MIN_REPLAY_TRACES = 8  # fewer say too little to undo a swap by


GOING_BACK = (SwapKind.ROLLBACK, SwapKind.REVERT)  # to what has served: it is not on trial again


class RolloutError(ValueError):
    """A decision that cannot be carried out; the message says why."""


def lock_deployment(target: Target) -> Deployment:
    """The target's deployment, locked until the transaction ends: decisions about one target come one at a time."""
    Deployment.objects.get_or_create(target=target)
    return lock_row(Deployment.objects.select_related("desired", "previous", "canary", "target"), target=target)


def collapse_threshold(version: SpeculatorVersion) -> float:
    """Accept length below which a swap to ``version`` has failed; 0 = none (day 0, or nothing to lose)."""
    replayed = version.accept_length()
    num_traces = sum(score["num_traces"] for score in (version.report or {}).get("candidate", []))
    if replayed is None or num_traces < MIN_REPLAY_TRACES:
        return 0.0
    floor = version.target.min_accept_length
    relative = 1 + COLLAPSE_SHARE * (replayed - 1) if replayed >= MIN_REPLAY_ACCEPT_LENGTH else 0.0
    return max(relative, floor if replayed >= floor else 0.0)


def set_intent(
    deployment: Deployment,
    version: SpeculatorVersion | None,
    canary: SpeculatorVersion | None = None,
    *,
    kind: SwapKind,
    actor: str,
) -> None:
    """The next generation of a locked deployment wants ``version`` (None = no speculation), on some ``canary``."""
    now = timezone.now()
    old_number = deployment.desired.number if deployment.desired else 0
    deployment.desired = version
    deployment.previous = find_version(deployment.target, "@previous")
    deployment.generation += 1
    is_on_trial = version is not None and kind not in GOING_BACK
    deployment.min_accept_length = collapse_threshold(version) if version and is_on_trial else 0.0
    deployment.changed_at = now
    deployment.canary = canary
    deployment.canary_started_at = now if canary else None
    deployment.canary_missing_since = None
    deployment.save()
    if canary is None:
        deployment.target.replicas.filter(is_canary=True).update(is_canary=False)
    Swap.objects.create(
        target=deployment.target,
        generation=deployment.generation,
        kind=kind,
        old_number=old_number,
        number=version.number if version else 0,
        canary_number=canary.number if canary else 0,
        actor=actor,
        at=now,
        expected=list(deployment.target.replicas.filter(is_alive=True).values_list("name", flat=True)),
    )
    live.publish(deployment.target_id, "deployment", deployment_payload(deployment))


def deployment_payload(deployment: Deployment) -> dict[str, Any]:
    """The intent as the browsers and the API get it."""
    return {
        "target": deployment.target.slug,
        "generation": deployment.generation,
        "version": deployment.desired.number if deployment.desired else 0,
        "previous": deployment.previous.number if deployment.previous else None,
        "canary": deployment.canary.number if deployment.canary else None,
        "is_held": deployment.is_held,
        "at": deployment.changed_at.timestamp(),
    }


def put_live(deployment: Deployment, version: SpeculatorVersion, actor: str, reason: str) -> None:
    """A passed version, or the canary, takes the place of the live one on every replica."""
    current = find_version(deployment.target, "@live")
    if current is not None:
        transition(current, Status.LIVE, Status.RETIRED, f"replaced by v{version.number}", actor)
    transition(version, version.status, Status.LIVE, reason, actor)
    supersede(deployment, version, actor)
    set_intent(deployment, version, kind=SwapKind.PROMOTE, actor=actor)
    detail = {"old": {"live": current.number if current else 0}, "new": {"live": version.number}}
    record(actor, "version.promote", str(version), target_slug=deployment.target.slug, reason=reason, detail=detail)


def supersede(deployment: Deployment, version: SpeculatorVersion, actor: str) -> None:
    """Older versions that wait are not wanted any more."""
    for old in deployment.target.versions.filter(status=Status.PASSED, number__lt=version.number):
        transition(old, Status.PASSED, Status.REJECTED, f"superseded by v{version.number}", actor)


def read_intent(target_id: int, replica: Replica | None) -> Deployment | None:
    """What is wanted of a target; ``replica`` learns whether it belongs to the canary.

    Both by one statement: a canary may start between two, and who was told the wrong version of a generation keeps it.
    """
    canaries = Replica.objects.filter(pk__in=[replica.pk] if replica else [], is_canary=True)
    rows = Deployment.objects.select_related("desired", "canary", "target")
    found = rows.annotate(is_on_canary=Exists(canaries)).filter(target=target_id).first()
    if replica is not None and found is not None:
        replica.is_canary = found.is_on_canary
    return found


def desired_state(target: Target, replica: Replica | None = None) -> DesiredState:
    """The console's intent for one target; on a replica of the canary it is the canary's version."""
    deployment = read_intent(target.pk, replica) or Deployment(target=target)
    is_canary = replica is not None and replica.is_canary and deployment.canary is not None
    version = deployment.canary if is_canary else deployment.desired
    threshold = deployment.min_accept_length
    if is_canary and version is not None:
        threshold = collapse_threshold(version)
    return DesiredState(
        target=target.slug,
        generation=deployment.generation,
        version=version.number if version else 0,
        uri=version.uri if version else "",
        sha256=version.sha256 if version else "",
        lookahead=target.max_lookahead,
        control_share=target.control_share,
        min_accept_length=threshold,
        pins=desired_pins(target) if replica is None or replica.pins_revision >= 0 else None,
    )
