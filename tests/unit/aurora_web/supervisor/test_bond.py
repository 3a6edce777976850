"""A database that lies elsewhere belongs to one state directory; another's is set aside, and nothing is lost."""

import os
import pwd
from pathlib import Path

import pytest

from aurora_web.supervisor import bond, places
from aurora_web.supervisor.process import ProcessError, unprivileged_user
from aurora_web.supervisor.services import Services

US = pwd.getpwuid(os.geteuid())


class Place:
    """A state directory, and a database elsewhere that says which one it is."""

    def __init__(self, root: Path) -> None:
        self.state, self.folder, self.said = root / "state", root / "elsewhere" / "postgres", list[str]()
        self.state.mkdir()

    def start(self, has_run: bool = False) -> None:
        bond.tie(self.state, self.folder, US, has_run, self.said.append)

    def hold(self, which: str) -> None:
        (self.folder / "data").mkdir(parents=True)
        (self.folder / "data" / "which").write_text(which)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def remove(state: Path) -> None:
    for file in state.iterdir():
        file.unlink()
    state.rmdir()


def begin_anew(place: Place) -> None:
    remove(place.state)
    place.state.mkdir()


def test_a_state_directory_finds_its_database_again(place: Place) -> None:
    place.start()
    place.hold("ours")
    place.start(has_run=True)
    assert (place.folder / "data" / "which").read_text() == "ours"
    assert place.said == [] and len(list(place.folder.parent.iterdir())) == 1


def test_a_new_state_directory_does_not_get_the_database_of_one_that_is_gone(place: Place) -> None:
    place.start()
    place.hold("old")
    begin_anew(place)
    place.start()
    assert not (place.folder / "data").exists()
    [kept] = [each for each in place.folder.parent.iterdir() if each != place.folder]
    assert (kept / "data" / "which").read_text() == "old"
    assert str(kept) in place.said[0] and len(place.said) == 1
    place.hold("new")
    place.start(has_run=True)
    assert (place.folder / "data" / "which").read_text() == "new" and len(place.said) == 1


def test_a_database_that_was_set_aside_is_taken_back_without_its_id(place: Place) -> None:
    place.start()
    place.hold("old")
    begin_anew(place)
    place.start()
    [kept] = [each for each in place.folder.parent.iterdir() if each != place.folder]
    place.folder.rename(place.folder.with_name("new"))
    kept.rename(place.folder)
    (place.folder / bond.OF_DATABASE).unlink()
    place.start(has_run=True)
    assert (place.folder / "data" / "which").read_text() == "old" and len(place.said) == 1


@pytest.mark.parametrize(("has_run", "is_kept"), [(True, True), (False, False)])
def test_one_from_before_there_were_ids_goes_with_the_directory_that_it_ran_from(
    place: Place, has_run: bool, is_kept: bool
) -> None:
    place.hold("old")
    place.start(has_run)
    assert (place.folder / "data").exists() == is_kept and bool(place.said) != is_kept
    place.start(has_run=True)
    assert (place.folder / "data").exists() == is_kept and len(place.said) == (not is_kept)


def test_what_cannot_be_written_down_stops_the_start_and_is_named(place: Place) -> None:
    place.folder.parent.mkdir()
    place.folder.touch()
    with pytest.raises(ProcessError, match=str(place.folder)):
        place.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")
def test_embedded_servers_say_where_the_database_of_a_closed_directory_lies_and_what_was_set_aside(
    open_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "ROOTS_PLACE", open_dir / "lib")
    closed = open_dir / "root"
    closed.mkdir(mode=0o700)
    said = list[str]()
    for _ in range(2):
        state = closed / "state"
        state.mkdir()
        services = Services(state, open_dir / "logs", redis_url="redis://own/0")
        assert services.database_elsewhere is not None and services.database_elsewhere.is_relative_to(open_dir / "lib")
        for _ in range(2):  # the second start finds what the first has made
            try:
                services.start(said.append)
            finally:
                services.stop()
        user = unprivileged_user()
        assert user is not None and services.database_elsewhere.stat().st_uid == user.pw_uid
        remove(state)
    assert len(said) == 1 and "a new one is made" in said[0]
    assert Services(open_dir, open_dir / "logs").database_elsewhere is None
