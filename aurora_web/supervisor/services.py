"""The embedded servers of one state directory, and the file through which ``manage.py`` finds them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from aurora_web.supervisor import bond
from aurora_web.supervisor.postgres import Postgres
from aurora_web.supervisor.valkey import Valkey

SERVICES_FILE = "services.json"


class Services:
    """Postgres and Valkey, each embedded unless an address is given."""

    def __init__(self, state_dir: Path, logs: Path, database_url: str = "", redis_url: str = "") -> None:
        self.state_dir = state_dir
        self.file = state_dir / SERVICES_FILE
        self.postgres = None if database_url else Postgres(state_dir / "postgres", logs / "postgres.log")
        self.valkey = None if redis_url else Valkey(state_dir / "valkey", logs / "valkey.log")
        self.database_url = self.postgres.url if self.postgres else database_url
        self.redis_url = self.valkey.url if self.valkey else redis_url

    @property
    def database_elsewhere(self) -> Path | None:
        """Where the embedded database lies, when that is not below the state directory."""
        return self.postgres.folder if self.postgres and self.postgres.is_elsewhere else None

    def start(self, say: Callable[[str], object] = lambda line: None) -> None:
        """Start what is embedded and write the addresses down; ``say`` hears of what is found. Raises ProcessError."""
        if self.postgres:
            if self.postgres.is_elsewhere:
                bond.tie(self.state_dir, self.postgres.folder, self.postgres.user, self.file.exists(), say)
            self.postgres.start()
        if self.valkey:
            self.valkey.start()
        unfinished = self.file.with_suffix(".new")
        unfinished.touch(mode=0o600)
        unfinished.write_text(json.dumps({"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url}))
        unfinished.replace(self.file)

    def stop(self) -> None:
        """Stop what is embedded; the database last."""
        if self.valkey:
            self.valkey.stop()
        if self.postgres:
            self.postgres.stop()
