"""Where embedded servers keep their data: below the state directory, save where their user cannot get there."""

import os
import pwd
from pathlib import Path

import pytest

from aurora_web.supervisor import places


def reached(folder: Path, purpose: str, user: pwd.struct_passwd | None) -> Path:
    """Chosen, then made."""
    chosen = places.reachable(folder, purpose, user)
    assert not chosen.exists() or (chosen / "kept").exists()
    places.make(chosen, user)
    return chosen


@pytest.fixture
def roots_place(open_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /var/lib/aurora."""
    monkeypatch.setattr(places, "ROOTS_PLACE", open_dir / "lib")
    return open_dir / "lib"


@pytest.fixture
def user() -> pwd.struct_passwd:
    """The services' user as root has it; for anybody else, ourselves: nobody may give a directory away."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def test_what_everybody_may_enter_is_taken_as_it_is(open_dir: Path, roots_place: Path, user: pwd.struct_passwd) -> None:
    found = reached(open_dir / "postgres", "postgres", user)
    assert found == open_dir / "postgres"
    assert found.stat().st_uid == user.pw_uid
    assert not roots_place.exists()


def test_what_is_closed_to_the_services_user_is_kept_elsewhere_and_found_again(
    open_dir: Path, roots_place: Path, user: pwd.struct_passwd
) -> None:
    closed = open_dir / "root" / "state"
    closed.mkdir(parents=True)
    closed.parent.chmod(0o700)  # like /root
    found = reached(closed / "postgres", "postgres", user)
    assert found == roots_place / places.key(closed / "postgres") / "postgres"
    assert found.stat().st_uid == user.pw_uid and places.can_traverse(found.parent)
    assert not (closed / "postgres").exists()
    (found / "kept").touch()
    assert (reached(closed / "postgres", "postgres", user) / "kept").exists()
    assert reached(closed / "valkey", "valkey", user).parent != found.parent


def test_who_is_not_root_keeps_everything_below_the_state_directory(open_dir: Path, roots_place: Path) -> None:
    (open_dir / "home").mkdir(mode=0o700)
    found = reached(open_dir / "home" / "state" / "postgres", "postgres", None)
    assert found == open_dir / "home" / "state" / "postgres"
    assert found.stat().st_mode & 0o777 == 0o700
    assert not roots_place.exists()
