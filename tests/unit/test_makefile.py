"""The README's commands: to stop and to look installs nothing; `make test` sees what a commit may have forgotten."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
SAYS = '#!/bin/sh\necho "$(basename "$0") $*"\n'


def make(*arguments, cwd=REPO):
    return subprocess.run(["make", *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)


@pytest.fixture
def checkout(tmp_path):
    """A checkout without an environment."""
    for name in ("Makefile", "requirements.txt", "requirements-torch.txt"):
        shutil.copy(REPO / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize(("command", "code"), [("down", 0), ("status", 2)])  # make's own code for a command that failed
def test_without_an_environment_nothing_runs_and_nothing_is_made(checkout, command, code):
    done = make(command, cwd=checkout)
    assert (done.returncode, done.stdout) == (
        code,
        "Aurora: nothing runs here: this checkout has not been started yet\n",
    )
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("command", ["down", "status"])
def test_what_runs_is_stopped_before_newer_requirements_are_installed(checkout, command):
    programs = checkout / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "pip"):
        (programs / name).write_text(SAYS)
        (programs / name).chmod(0o755)
    (checkout / ".venv" / ".runtime").touch()
    os.utime(checkout / ".venv" / ".runtime", (0, 0))
    done = make(command, cwd=checkout)
    assert (done.returncode, done.stdout) == (0, f"python -m aurora_web.supervisor {command}\n")


def test_the_tests_look_at_the_format_too():
    assert "ruff format --check ." in make("-n", "test").stdout
