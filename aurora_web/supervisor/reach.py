"""Whether servers of somebody's own answer, asked before anything is started."""

from __future__ import annotations

import psycopg
import redis

from aurora_web import environment as env

SECONDS = 5  # that a server has for its answer


def check_database(url: str) -> None:
    """Raises ImproperlyConfigured where DATABASE_URL leads to no database that lets us in."""
    found = env.postgres(url)
    asked = {"host": found["HOST"], "port": found["PORT"], "user": found["USER"], "password": found["PASSWORD"]}
    given = {name: value for name, value in asked.items() if value}
    try:
        psycopg.connect(**{**found["OPTIONS"], **given, "dbname": found["NAME"], "connect_timeout": SECONDS}).close()
    except psycopg.Error as error:
        raise _unreachable("DATABASE_URL", url, "Postgres", error, found["PASSWORD"]) from None


def check_redis(url: str) -> None:
    """Raises ImproperlyConfigured where REDIS_URL leads to no Valkey or Redis that lets us in."""
    client = redis.Redis.from_url(
        env.redis_urls(url)[0], socket_connect_timeout=SECONDS, socket_timeout=SECONDS, retry=None
    )
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        password = str(client.connection_pool.connection_kwargs.get("password") or "")
        raise _unreachable("REDIS_URL", url, "Valkey or Redis", error, password) from None
    finally:
        client.close()


def _unreachable(name: str, url: str, server: str, error: Exception, password: str) -> Exception:
    reason = " ".join(str(error).split())
    if password:
        reason = reason.replace(password, "…")
    right = f"expected a {server} that runs and lets us in ({reason}); without {name} one is started here"
    return env.wrong(name, env.without_password(url), right)
