"""Where the embedded servers keep data and sockets, so that an unprivileged user can reach both."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
from pathlib import Path

from aurora_web.supervisor.process import ProcessError

ROOTS_PLACE = Path("/var/lib/aurora")  # for what another user must reach and root's own directories hide


def key(folder: Path) -> str:
    """A short name for a directory, the same in every process."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]


def can_traverse(folder: Path) -> bool:
    """Whether everybody may pass through ``folder`` and all directories above it."""
    folder = folder.resolve()
    return all(each.stat().st_mode & 0o001 for each in [folder, *folder.parents] if each.exists())


def reachable(folder: Path, purpose: str, user: pwd.struct_passwd | None) -> Path:
    """``folder`` where ``user`` can reach it, else a directory of our own under /var/lib/aurora. Nothing is made yet.

    Only root ever needs the second: a checkout under /root is closed to everybody else.
    """
    if user is None or can_traverse(folder.parent):
        return folder
    return ROOTS_PLACE / key(folder) / purpose


def make(folder: Path, user: pwd.struct_passwd | None) -> None:
    """Make what ``reachable`` has chosen, where it is missing."""
    if user is None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not folder.exists():
        folder.mkdir(parents=True)
        os.chown(folder, user.pw_uid, user.pw_gid)


def socket_dir(folder: Path) -> Path:
    """Where the unix sockets of ``folder`` are (their paths may have 107 bytes): the same in every process."""
    return Path("/tmp") / f"aurora-{os.geteuid()}-{key(folder)}"


def make_private(made: Path, user: pwd.struct_passwd | None) -> None:
    """Make a directory of ``user``'s, or ours, that nobody else may enter.

    Raises ProcessError where somebody else made it before us.
    """
    owner = user.pw_uid if user is not None else os.geteuid()
    made.mkdir(mode=0o700, exist_ok=True)
    found = made.lstat()
    if made.is_symlink() or found.st_uid not in {owner, os.geteuid()}:
        raise ProcessError(f"{made} belongs to user {found.st_uid}, not to us: remove it")
    if found.st_uid != owner:
        os.chown(made, owner, -1)


def remove_empty(folder: Path) -> None:
    """Remove a directory that its server has left; one that still holds something stays."""
    with contextlib.suppress(OSError):
        folder.rmdir()
