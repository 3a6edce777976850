"""The README's commands: what a machine lacks is named or installed, long steps tell of themselves, to stop and to look
installs nothing, and `make test` sees what a commit may have forgotten."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
SAYS = '#!/bin/sh\necho "$(basename "$0") $*"\n'


def make(*arguments, cwd=REPO, path=None):
    """With programs of a folder ``path`` before the machine's."""
    environment = {**ENVIRONMENT, "PATH": f"{path}:{ENVIRONMENT['PATH']}"} if path else ENVIRONMENT
    return subprocess.run(["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def checkout(tmp_path):
    """A checkout without an environment."""
    for name in ("Makefile", "requirements.txt", "requirements-torch.txt", "deploy/apt-install", ".ci/run"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPO / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def programs(tmp_path):
    """program(name, script): a program for the path, in a folder of its own."""
    folder = tmp_path / "programs"
    folder.mkdir()

    def program(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        return folder

    return program


def an_ordinary_user(program):
    program("id", "echo 1000")
    return program("sudo", "exit 1")


# A bare Debian's: it is there, and makes no environment until python3-venv is installed.
BARE_PYTHON = """
case "$1 $2" in
  "-c "*) exit 0;;
  "-m venv") [ -e "$(dirname "$0")/installed" ] || { echo "ensurepip is not available"; exit 1; }
    mkdir -p "$3/bin" && touch "$3/bin/pip";;
esac"""


def test_a_missing_venv_is_named_with_the_command_that_installs_it(checkout, programs):
    path = an_ordinary_user(programs)
    programs("bare-python", BARE_PYTHON)
    done = make(".venv/bin/pip", "PYTHON=bare-python", cwd=checkout, path=path)
    assert done.returncode != 0
    assert (
        "Aurora needs these Debian packages: python3-venv. Run as root: apt-get install -y python3-venv\n"
        in done.stderr
    )


def test_root_gets_a_missing_venv_installed(checkout, programs):
    programs("id", "echo 0")
    programs("apt-get", 'echo "$*" >> "$(dirname "$0")/asked"; touch "$(dirname "$0")/installed"')
    path = programs("bare-python", BARE_PYTHON)
    done = make(".venv/bin/pip", "PYTHON=bare-python", cwd=checkout, path=path)
    assert done.returncode == 0, done.stderr
    assert (checkout / ".venv" / "bin" / "pip").exists()
    update, install = (path / "asked").read_text().splitlines()
    assert update.endswith("update -qq")
    assert install.endswith(" python3-venv")


def test_without_make_the_check_names_it_with_the_command(checkout, programs):
    path = an_ordinary_user(programs)
    for name in ("bash", "dirname"):
        (path / name).symlink_to(shutil.which(name))
    programs("python3", "exit 0")
    programs("cc", "exit 0")
    done = subprocess.run(
        [checkout / ".ci" / "run"], env={"PATH": str(path)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert done.stderr == "Aurora needs these Debian packages: make. Run as root: apt-get install -y make\n"


def test_installing_tells_of_large_downloads_and_that_it_goes_on(checkout):
    pip = checkout / ".venv" / "bin" / "pip"
    pip.parent.mkdir(parents=True)
    pip.write_text(
        """#!/bin/sh
echo "Collecting torch==2.13.0"
echo "  Downloading https://mirror/a/torch-2.13.0-cp311-manylinux.whl (186.3 MB)"
echo "  Downloading https://mirror/a/idna-3.10-py3-none-any.whl (70 kB)"
echo "  Downloading django-5.2-py3-none-any.whl (8.3 MB)"
echo "Installing collected packages: torch, idna, django"
"""
    )
    pip.chmod(0o755)
    done = make(".venv/.runtime", cwd=checkout)
    assert done.stdout.splitlines() == [
        "Aurora: installing torch (the largest part) and the other packages; a few minutes the first time",
        "  downloading torch-2.13.0-cp311-manylinux.whl, 186.3 MB",
        "  installing what was downloaded",
    ]


@pytest.mark.parametrize(("command", "code"), [("down", 0), ("status", 2)])  # make's own code for a command that failed
def test_without_an_environment_nothing_runs_and_nothing_is_made(checkout, command, code):
    done = make(command, cwd=checkout)
    assert (done.returncode, done.stdout) == (
        code,
        "Aurora: nothing runs here: this checkout has not been started yet\n",
    )
    assert not (checkout / ".venv").exists()


@pytest.fixture
def outdated(checkout):
    """A checkout whose requirements are newer than its environment, of programs that say how they were called.

    outdated(status) -> checkout: with the status of the supervisor's ``status``.
    """

    def make_outdated(status=0):
        programs = checkout / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, script in (("pip", SAYS), ("python", f'{SAYS}[ "$3" != status ] || exit {status}\n')):
            (programs / name).write_text(script)
            (programs / name).chmod(0o755)
        (checkout / ".venv" / ".runtime").touch()
        os.utime(checkout / ".venv" / ".runtime", (0, 0))
        return checkout

    return make_outdated


@pytest.mark.parametrize("command", ["down", "status"])
def test_what_runs_is_stopped_before_newer_requirements_are_installed(outdated, command):
    done = make(command, cwd=outdated())
    assert (done.returncode, done.stdout) == (0, f"python -m aurora_web.supervisor {command}\n")


@pytest.mark.parametrize(("status", "is_running"), [(0, True), (3, False)])
def test_a_second_start_says_that_it_runs_before_newer_requirements_are_installed(outdated, status, is_running):
    done = make("up", cwd=outdated(status))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("python -m aurora_kernels.native\npython -m aurora_web.supervisor up\n")
    assert ("installing" in done.stdout) is not is_running


def test_a_start_with_the_newest_requirements_asks_nobody_first(outdated):
    """The question would cost each start a start of Python."""
    checkout = outdated()
    os.utime(checkout / ".venv" / ".runtime")
    (checkout / ".venv" / "bin" / "python").write_text(f'{SAYS}echo "$*" >> asked\n')
    assert make("up", cwd=checkout).returncode == 0
    assert (checkout / "asked").read_text() == "-m aurora_kernels.native\n-m aurora_web.supervisor up\n"


@pytest.mark.parametrize("command", ["bench", "bench-web", "test-browser", "screenshots"])
def test_what_drives_a_browser_gets_one(command):
    wanted = "command -v chromium"
    assert wanted in make("-n", "--always-make", command).stdout


def test_the_tests_look_at_the_format_too():
    assert "ruff format --check ." in make("-n", "test").stdout
