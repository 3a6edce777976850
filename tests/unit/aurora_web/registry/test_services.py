import itertools
import shutil

import pytest

from aurora_web.accounts.models import AuditEvent
from aurora_web.registry.checks import Origin, examine
from aurora_web.registry.findings import State, Topic
from aurora_web.registry.models import ALLOWED_TRANSITIONS, SpeculatorVersion, Status, Target, Transition
from aurora_web.registry.services import (
    IncompatibleTarget,
    StaleVersion,
    change_settings,
    find_version,
    register_target,
    transition,
)

pytestmark = pytest.mark.django_db


def test_registration_keeps_the_facts_and_says_who(target, checkpoint_dir):
    assert (target.architecture, target.num_layers, target.vocab_size) == ("LlamaForCausalLM", 8, 61)
    assert target.path == str(checkpoint_dir)
    event = AuditEvent.objects.get(action="target.register")
    assert (event.actor, event.subject) == ("test", "demo")


def test_a_broken_chat_template_stands_in_the_way_and_none_does_not(db, checkpoint_dir, tmp_path):
    folder = shutil.copytree(checkpoint_dir, tmp_path / "base")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ a }"}')
    with pytest.raises(IncompatibleTarget, match="does not compile"):
        register_target(path=str(folder), actor="ada")
    (folder / "tokenizer_config.json").unlink()
    lines = {finding.topic: finding for finding in examine(Origin(path=str(folder))).findings}
    assert (lines[Topic.CHAT].state, lines[Topic.VOCABULARY].state) == (State.WARNING, State.OK)
    assert register_target(path=str(folder), actor="ada").slug == "base"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"slug": "demo"}, "already"),
        ({"slug": "Bad Slug"}, "Bad Slug"),
        ({"path": "some/models"}, "absolute"),
        ({"path": "/nowhere/at/all"}, "does not exist"),
        ({"slug": "x", "min_gian": 1}, "min_gian"),
        ({"slug": "x", "control_share": 2.0}, "control_share"),
    ],
)
def test_what_cannot_be_registered_is_named_and_leaves_nothing(target, checkpoint_dir, changes, named):
    with pytest.raises(IncompatibleTarget, match=named):
        register_target(**{"path": str(checkpoint_dir), "actor": "x", **changes})
    assert Target.objects.count() == 1


@pytest.mark.parametrize(("old", "new"), itertools.product(Status.values, Status.values))
def test_only_allowed_transitions(make_version, old, new):
    version = make_version()
    SpeculatorVersion.objects.filter(pk=version.pk).update(status=old)
    if new in ALLOWED_TRANSITIONS[old]:
        row = transition(version, old, new, "because", "ada")
        assert (row.old, row.new, row.reason, row.actor) == (old, new, "because", "ada")
        assert SpeculatorVersion.objects.get(pk=version.pk).status == new
    else:
        with pytest.raises(ValueError, match=f"from {old} to {new}"):
            transition(version, old, new, "because", "ada")
        assert SpeculatorVersion.objects.get(pk=version.pk).status == old


def test_the_second_of_two_decisions_is_told(make_version):
    version = make_version()
    transition(version, "candidate", "passed", "first", "gate")
    with pytest.raises(StaleVersion, match="not candidate any more"):
        transition(version, "candidate", "rejected", "second", "ada")
    assert list(Transition.objects.filter(version=version).values_list("new", flat=True)) == ["passed", "candidate"]


def test_versions_are_numbered_and_found_by_alias(target, make_version):
    first, second = make_version(), make_version()
    assert (first.number, second.number) == (1, 2)
    assert find_version(target, "@live") is None
    for version in (first, second):
        transition(version, "candidate", "passed", "", "gate")
    transition(first, "passed", "live", "", "policy")
    transition(first, "live", "retired", "", "policy")
    transition(second, "passed", "live", "", "policy")
    assert find_version(target, "@live") == second
    assert find_version(target, "@previous") == first
    assert find_version(target, "1") == first
    assert find_version(target, "77") is None


def test_settings_keep_old_and_new_and_refuse_nonsense(target):
    change_settings(target, {"traffic_mix": {"sql": 2}, "traffic_concurrency": 4}, "ada")
    detail = AuditEvent.objects.get(action="target.settings").detail
    assert detail["new"] == {"traffic_mix": {"sql": 2}, "traffic_concurrency": 4}
    assert detail["old"] == {"traffic_mix": {}, "traffic_concurrency": 1}
    for bad in ({"traffic_mix": {"sql": -1}}, {"traffic_schedule": [{"at": 1}]}, {"nonsense": 1}, {"slug": "other"}):
        with pytest.raises(IncompatibleTarget, match=next(iter(bad))):
            change_settings(target, bad, "ada")
    assert Target.objects.get().traffic_mix == {"sql": 2}
