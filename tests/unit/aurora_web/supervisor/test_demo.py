"""Which demo target runs: asked for, as before, or the one that needs no package; an operator's changes stay."""

import json

import pytest
from django.core.exceptions import ImproperlyConfigured

from aurora_web.registry.models import Target
from aurora_web.registry.services import change_settings, register_target
from aurora_web.supervisor.config import SupervisorConfig
from aurora_web.supervisor.demo import Demo
from aurora_web.supervisor.prepare import _follow_demo
from serving.engine.config import EngineConfig
from serving.traffic.sender import SAMPLED_TEMPERATURE


def test_a_first_start_runs_the_real_model(tmp_path):
    assert Demo.choose("", tmp_path) == Demo("smollm2", before="")


def test_what_was_asked_for_once_is_kept(tmp_path):
    Demo.choose("pocket", tmp_path).remember(tmp_path)
    assert Demo.choose("", tmp_path) == Demo("pocket", before="pocket")
    assert Demo.choose("smollm2", tmp_path) == Demo("smollm2", before="pocket")


def test_a_fallback_is_not_kept(tmp_path):
    Demo.choose("", tmp_path).fallen_back().remember(tmp_path)
    assert Demo.choose("", tmp_path) == Demo("smollm2", before="pocket")


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_an_unreadable_file_counts_as_none(tmp_path, content):
    (tmp_path / "demo.json").write_text(content)
    assert Demo.choose("", tmp_path) == Demo("smollm2", before="")


def test_a_wrong_name_stops_the_start(tmp_path):
    with pytest.raises(
        ImproperlyConfigured, match="AURORA_DEMO='gpt5' cannot be used: expected one of smollm2, pocket"
    ):
        SupervisorConfig.from_environment({"AURORA_STATE_DIR": str(tmp_path), "AURORA_DEMO": "gpt5"})


@pytest.fixture
def models(tmp_path, checkpoint_dir):
    for name in ("smollm2", "pocket"):
        (tmp_path / name).symlink_to(checkpoint_dir)
    return tmp_path


def running():
    return sorted(Target.objects.filter(is_active=True).values_list("slug", flat=True))


def test_the_first_start_registers_it_with_traffic(db, models):
    _follow_demo("pocket", "", models)
    pocket = Target.objects.get()
    assert (pocket.slug, pocket.traffic_enabled, pocket.control_share) == ("pocket", True, 0.1)
    assert pocket.traffic_schedule[0]["mix"] == {"sql": 1, "arithmetic": 1}
    assert (pocket.traffic_concurrency, pocket.traffic_sampled_share, pocket.traffic_max_tokens) == (4, 0.5, 128)
    assert SAMPLED_TEMPERATURE == 0.7  # of that half
    _follow_demo("pocket", "pocket", models)
    assert running() == ["pocket"]


def test_another_demo_takes_the_place_of_the_first_and_gives_it_back(db, models):
    _follow_demo("pocket", "", models)
    _follow_demo("smollm2", "pocket", models)
    assert running() == ["smollm2"]
    _follow_demo("pocket", "smollm2", models)
    assert running() == ["pocket"]
    _follow_demo("none", "pocket", models)
    assert running() == []


def test_a_demo_target_that_an_operator_retired_stays_so(db, models):
    _follow_demo("pocket", "", models)
    change_settings(Target.objects.get(), {"is_active": False}, "ada")
    _follow_demo("pocket", "pocket", models)
    assert running() == []


def test_other_people_s_targets_are_never_touched(db, models, checkpoint_dir):
    register_target(path=str(checkpoint_dir), slug="smollm2", actor="ada")
    _follow_demo("smollm2", "", models)
    _follow_demo("pocket", "smollm2", models)
    assert running() == ["pocket", "smollm2"]
    assert Target.objects.get(slug="smollm2").created_by == "ada"


def test_the_file_is_json_of_two_facts(tmp_path):
    Demo("pocket", is_fallback=True).remember(tmp_path)
    assert json.loads((tmp_path / "demo.json").read_text()) == {"name": "pocket", "is_fallback": True}


def test_a_target_of_somebody_s_own_has_the_usual_control(db, checkpoint_dir):
    mine = register_target(path=str(checkpoint_dir), slug="mine", actor="ada")
    assert (mine.control_share, EngineConfig().control_share) == (0.02, 0.02)
