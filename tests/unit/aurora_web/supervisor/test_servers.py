"""The embedded servers: data survives a restart, another major version is refused."""

from pathlib import Path

import psycopg
import pytest
import redis

from aurora_web.supervisor.postgres import Postgres
from aurora_web.supervisor.process import ProcessError
from aurora_web.supervisor.valkey import Valkey


@pytest.fixture
def open_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("servers")
    folder.chmod(0o755)
    return folder


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
    (server.folder / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(ProcessError, match="written by Postgres 9"):
        server.start()


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
