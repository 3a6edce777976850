"""Ties a database that lies elsewhere to its state directory: each holds the same random id.

Who removes a state directory to begin anew would else get the old database, without the files of its versions and
without a link for the first admin.
"""

from __future__ import annotations

import pwd
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from aurora_web.supervisor.places import make
from aurora_web.supervisor.process import ProcessError

OF_STATE = "postgres.id"  # in the state directory
OF_DATABASE = "state.id"  # in the folder that holds the cluster's ``data``


def tie(
    state_dir: Path, folder: Path, user: pwd.struct_passwd | None, has_run: bool, say: Callable[[str], object]
) -> None:
    """Before the start: a database in ``folder`` that is not this state directory's is renamed, and ``say`` is told.

    One without an id is taken over where the state directory has one, or ``has_run`` before there were any. Afterwards
    ``folder`` exists, is ``user``'s, and is marked. Raises ProcessError.
    """
    try:
        ours, its = _read(state_dir / OF_STATE), _read(folder / OF_DATABASE)
        is_ours = its == ours if its else bool(ours) or has_run
        if (folder / "data").exists() and not is_ours:
            _set_aside(folder, say)
        make(folder, user)
        ours = ours or uuid.uuid4().hex
        for file in (state_dir / OF_STATE, folder / OF_DATABASE):  # in this order: one alone is a start that was killed
            _write(file, ours)
    except OSError as error:
        raise ProcessError(f"the database in {folder} cannot be tied to {state_dir}: {error}") from error


def _set_aside(folder: Path, say: Callable[[str], object]) -> None:
    kept = folder.with_name(f"{folder.name}.{datetime.now():%Y%m%d-%H%M%S-%f}")
    folder.rename(kept)
    say(f"the database in {folder} is of a state directory that is gone: it is kept as {kept}, and a new one is made")


def _read(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""


def _write(file: Path, text: str) -> None:
    unfinished = file.with_suffix(".new")
    unfinished.write_text(f"{text}\n")
    unfinished.replace(file)
