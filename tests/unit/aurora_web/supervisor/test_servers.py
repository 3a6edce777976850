"""The embedded servers: data survives a restart, another major version is refused."""

import os
import shutil
from pathlib import Path

import psycopg
import pytest
import redis

from aurora_web.supervisor import postgres
from aurora_web.supervisor.postgres import Postgres
from aurora_web.supervisor.process import ProcessError, unprivileged_user
from aurora_web.supervisor.valkey import Valkey


def test_postgres_keeps_what_was_committed_and_refuses_another_major_version(open_dir: Path) -> None:
    server = Postgres(open_dir / "postgres", open_dir / "postgres.log")
    server.start()
    try:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    finally:
        server.stop()
    server.start()
    try:
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    finally:
        server.stop()
    assert not server.sockets.exists()
    (server.folder / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(ProcessError, match="written by Postgres 9"):
        server.start()
    shutil.rmtree(server.folder / "data")
    with pytest.raises(ProcessError, match="bring it back"):  # no empty one in its place
        server.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")
def test_programs_in_an_environment_that_only_root_may_enter_are_run_from_a_copy(
    tmp_path: Path, open_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    for name in (postgres.PACKAGE, postgres.LIBRARIES):
        shutil.copytree(postgres.installed() / name, closed / name, symlinks=True)
    closed.chmod(0o700)
    monkeypatch.setattr(postgres, "installed", lambda: closed)
    monkeypatch.setattr(postgres, "ROOTS_PLACE", open_dir)
    server = Postgres(open_dir / "postgres", open_dir / "postgres.log")
    server.start()
    try:
        psycopg.connect(server.url).close()
    finally:
        server.stop()
    user = unprivileged_user()
    assert postgres.within_reach(closed, user) == postgres.within_reach(closed, user)
    assert open_dir in postgres.within_reach(closed, user).parents
    assert not list(open_dir.rglob(".copy.*"))


def test_valkey_keeps_a_queue_over_a_restart(open_dir: Path) -> None:
    server = Valkey(open_dir / "valkey", open_dir / "valkey.log")
    for expected in (1, 2):
        server.start()
        try:
            client = redis.Redis(unix_socket_path=str(server.socket))
            assert client.rpush("queue", "message") == expected
            client.close()
        finally:
            server.stop()
        assert not server.socket.parent.exists()
