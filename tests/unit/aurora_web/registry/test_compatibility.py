import json
import shutil

import pytest

from aurora_web.registry.compatibility import inspect


@pytest.fixture
def copy(checkpoint_dir, tmp_path):
    return shutil.copytree(checkpoint_dir, tmp_path / "My Model")


def change(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_a_good_directory_has_no_problem(copy):
    facts, problems = inspect(str(copy))
    assert problems == []
    assert (facts.default_slug, facts.hidden_size) == ("my-model", 32)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"num_hidden_layers": 4}, "4 layers"),
        ({"vocab_size": 62}, "[62, 32]"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 9}, "layer 8"),
    ],
)
def test_problems_name_the_value(copy, changes, named):
    change(copy, **changes)
    _, problems = inspect(str(copy))
    assert any(named in str(problem) for problem in problems), problems


def test_a_download_cut_short(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    _, problems = inspect(str(copy))
    assert any("cut short" in str(problem) for problem in problems)


@pytest.mark.parametrize(
    ("name", "named"),
    [("config.json", "config.json"), ("model.safetensors", "safetensors"), ("tokenizer.json", "tokenizer")],
)
def test_missing_files_are_named(copy, name, named):
    (copy / name).unlink()
    _, problems = inspect(str(copy))
    assert any(named in str(problem) for problem in problems)


def test_config_that_is_no_json(copy):
    (copy / "config.json").write_text("{")
    facts, problems = inspect(str(copy))
    assert facts is None
    assert "JSON" in str(problems[0])
