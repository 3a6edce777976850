"""A named package becomes a directory once, whole or not at all, and never in the place of something else."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from serving.model_sources.prepared import Origin, origin_of, prepare

ORIGIN = Origin("some", "Some model", "Apache-2.0", "a" * 64)


def write(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def refuse(folder: Path) -> None:
    raise AssertionError("nothing is to be written")


def test_it_is_written_once_and_knows_where_it_came_from(tmp_path):
    folder = prepare(tmp_path / "models" / "some", ORIGIN, write)
    assert origin_of(folder) == ORIGIN
    assert prepare(folder, ORIGIN, refuse) == folder


def test_a_new_package_replaces_the_old_one(tmp_path):
    folder = prepare(tmp_path / "some", ORIGIN, write)
    (folder / "old").touch()
    newer = replace(ORIGIN, sha256="b" * 64)
    assert origin_of(prepare(folder, newer, write)) == newer
    assert not (folder / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["some"]


def test_a_directory_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and no named package was written there"):
        prepare(tmp_path, ORIGIN, refuse)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_what_fails_half_way_leaves_nothing(tmp_path):
    def fail(folder: Path) -> None:
        write(folder)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        prepare(tmp_path / "some", ORIGIN, fail)
    assert list(tmp_path.iterdir()) == []


def test_the_old_directory_stays_where_the_new_one_fails(tmp_path):
    folder = prepare(tmp_path / "some", ORIGIN, write)

    def fail(_: Path) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        prepare(folder, replace(ORIGIN, sha256="b" * 64), fail)
    assert origin_of(folder) == ORIGIN


@pytest.mark.parametrize("content", ["", "[]", '{"name": "x"}', "no json"])
def test_a_marker_that_says_nothing_is_none(tmp_path, content):
    (tmp_path / "model_source.json").write_text(content)
    assert origin_of(tmp_path) is None


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "serving.model_sources", *arguments]


def test_the_command_makes_the_pocket_target(tmp_path):
    done = subprocess.run(command("pocket", "--out", str(tmp_path / "p")), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert origin_of(tmp_path / "p").name == "pocket"
    assert (tmp_path / "p" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["gpt5", "--out", "x"], 2, "invalid choice: 'gpt5'"),
        (["pocket", "--out", "/proc/none"], 1, "error: [Errno 2] No such file or directory: '/proc/"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, status, said):
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert said in done.stderr
