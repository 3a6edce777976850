"""pytest plugin (``-p tests.services``): a real Postgres and a real Valkey for the session, before settings are read.

``DATABASE_URL`` in the environment replaces the embedded Postgres: pytest's workers share that of the session, each
with a database of its own. Valkey is never shared: whoever listens to a server hears what every process says there.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import uuid
from pathlib import Path

import psycopg

from aurora_web.supervisor.services import Services

_state_dir = Path(tempfile.mkdtemp(prefix="aurora-tests-"))
_state_dir.chmod(0o755)
servers = Services(_state_dir, _state_dir / "logs", os.environ.get("DATABASE_URL", ""))


def _stop() -> None:
    servers.stop()
    shutil.rmtree(_state_dir, ignore_errors=True)


def new_database() -> str:
    """The address of a database of its own on the session's server, for one ring or console."""
    name = f"own_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url, _, options = servers.database_url.partition("?")
    return f"{url.rpartition('/')[0]}/{name}" + (f"?{options}" if options else "")


atexit.register(_stop)
servers.start()
os.environ["AURORA_STATE_DIR"] = str(_state_dir)
os.environ["DATABASE_URL"] = servers.database_url
os.environ["REDIS_URL"] = servers.redis_url
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aurora_web.settings")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch with two threads on two busy cores is many times slower
