"""A freeze stops what goes live by itself, a canary's promotion included, and nothing that undoes."""

from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.accounts.models import AuditEvent
from aurora_web.registry.models import SpeculatorVersion
from aurora_web.rollouts import canaries, freeze, replicas, services
from aurora_web.rollouts.canary_verdict import Action
from aurora_web.rollouts.intent import RolloutError
from aurora_web.training import control

pytestmark = pytest.mark.django_db
LATER = timedelta(minutes=6)


def status(number):
    return SpeculatorVersion.objects.get(number=number).status


def test_a_frozen_canary_is_not_promoted_by_itself_but_by_a_person(target, canary, measured):
    measured(0.5, 0.6)
    freeze.freeze(target, "olga")
    assert canaries.watch(target, timezone.now() + LATER) == Action.WAIT
    assert status(3) == "canary"
    freeze.unfreeze(target, "olga")
    assert canaries.watch(target, timezone.now() + LATER) == Action.PROMOTE


def test_a_bad_canary_is_rolled_back_all_the_same(target, canary, measured):
    measured(0.9, 0.6)
    freeze.freeze(target, "olga")
    assert canaries.watch(target, timezone.now() + LATER) == Action.ROLL_BACK
    assert status(3) == "rolled_back"


def test_nobody_takes_the_next_turn_while_frozen(target, canary, judged, report):
    waiting = judged(report({"sql": (4.0, 2.0)}))
    freeze.freeze(target, "olga")
    canaries.abort(canary, "olga")
    assert canaries.take_next(target) is False
    assert status(waiting.number) == "passed"


def test_twice_is_refused_in_words(target):
    freeze.freeze(target, "olga")
    with pytest.raises(RolloutError, match="frozen already, by olga"):
        freeze.freeze(target, "ada")
    freeze.unfreeze(target, "ada")
    with pytest.raises(RolloutError, match="there is nothing to unfreeze"):
        freeze.unfreeze(target, "ada")


@pytest.mark.parametrize(
    ("begin", "end"),
    [(freeze.freeze, freeze.unfreeze), (services.rollback, services.resume)],
    ids=["freeze", "rollback"],
)
def test_the_policy_decides_again_on_what_waits_without_a_canary_too(target, judged, report, begin, end):
    """When a freeze ends, and when the hold does that a rollback begins."""
    judged()
    judged(report({"sql": (2.0, 1.0)}))
    begin(target, "olga")
    waiting = judged(report({"sql": (3.0, 1.0)}))
    replicas.reconcile(timezone.now())
    assert status(waiting.number) == "passed"
    end(target, "olga")
    replicas.reconcile(timezone.now())
    assert status(waiting.number) == "live"


@pytest.mark.parametrize(
    ("begin", "end", "actions", "field"),
    [
        (freeze.freeze, freeze.unfreeze, ("target.freeze", "target.unfreeze"), "is_frozen"),
        (control.pause, control.resume, ("training.pause", "training.resume"), "is_paused"),
    ],
    ids=["freeze", "pause"],
)
def test_the_audit_log_says_what_was_and_what_is(target, begin, end, actions, field):
    begin(target, "olga", "launch day")
    end(target, "ada")
    before, after = (AuditEvent.objects.get(action=action).changes for action in actions)
    assert (before, after) == ([(field, False, True)], [(field, True, False)])
