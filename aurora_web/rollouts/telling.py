"""Who is told that a person is waited for: once, until everything that waits has been decided on."""

from __future__ import annotations

from django.utils import timezone

from aurora_web.registry.models import SpeculatorVersion, Status
from aurora_web.rollouts import notifications
from aurora_web.rollouts.approvals import waits_for_person
from aurora_web.rollouts.models import Deployment, GateDecision


def tell_waiting(deployment: Deployment) -> bool:
    """Tell of the newest version that has passed and that nobody but a person lets in; False = nothing to tell.

    Versions that come to wait beside one that was told of are not told of themselves. The deployment is locked.
    """
    target = deployment.target
    if not waits_for_person(target, deployment):
        return False
    waiting = GateDecision.objects.filter(version__target=target, version__status=Status.PASSED)
    is_told = waiting.exclude(told_at=None).exists()
    newest = waiting.filter(told_at=None).select_related("version__target").order_by("-version__number").first()
    if newest is None:
        return False
    if not is_told:
        notifications.tell_approval(newest.version, " ".join(newest.reasons))
    waiting.filter(told_at=None).update(told_at=timezone.now())
    return not is_told


def tell_of_canary(version: SpeculatorVersion, reason: str) -> bool:
    """Tell that a canary would go live if its target was not frozen; False = told before."""
    if not GateDecision.objects.filter(version=version, told_at=None).update(told_at=timezone.now()):
        return False
    notifications.tell_canary(version, reason)
    return True


def forget(version: SpeculatorVersion) -> None:
    """What was told of a version that waited is over: it is in canary now."""
    GateDecision.objects.filter(version=version).update(told_at=None)
