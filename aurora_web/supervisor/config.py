"""What the supervisor is told by the environment; the only place of this package that reads it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aurora_web import environment as env
from aurora_web.supervisor import demo

REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class SupervisorConfig:
    """One machine's Aurora. ``database_url`` and ``redis_url`` are "" where the embedded servers are to be used."""

    state_dir: Path
    web_host: str
    web_port: int
    engine_host: str
    engine_port: int
    database_url: str
    redis_url: str
    console_url: str
    demo: str  # one of demo.CHOICES; "" = as at the last start
    inherited: Mapping[str, str]

    @classmethod
    def from_environment(cls, inherited: Mapping[str, str] = os.environ) -> SupervisorConfig:
        """Read and check. Raises ImproperlyConfigured naming the variable, its value, and what would be right."""
        environment = env.given(inherited)
        web_host = environment.get("AURORA_WEB_HOST", "127.0.0.1")
        web_port = env.port(environment, "AURORA_WEB_PORT", 8000)
        engine_port = env.port(environment, "AURORA_ENGINE_PORT", 8100)
        if web_port == engine_port:
            raise env.wrong(
                "AURORA_ENGINE_PORT", str(engine_port), "AURORA_WEB_PORT has the same value; they must differ"
            )
        database_url, redis_url = environment.get("DATABASE_URL", ""), environment.get("REDIS_URL", "")
        if database_url:
            env.postgres(database_url)
        if redis_url:
            env.redis_urls(redis_url)
        _check_children(environment, web_host)
        return cls(
            state_dir=env.directory(environment, "AURORA_STATE_DIR", REPO / ".state"),
            web_host=web_host,
            web_port=web_port,
            engine_host=environment.get("AURORA_ENGINE_HOST", "127.0.0.1"),
            engine_port=engine_port,
            database_url=database_url,
            redis_url=redis_url,
            console_url=env.console_url(environment, env.address(web_host, web_port)),
            demo=_demo(environment),
            inherited=dict(inherited),
        )

    @property
    def logs(self) -> Path:
        return self.state_dir / "logs"

    @property
    def models(self) -> Path:
        """Where named packages become directories, each under its own name."""
        return self.state_dir / "models"

    def child_environment(self, database_url: str, redis_url: str, replica_token: str = "") -> dict[str, str]:
        """Environment of the processes that the supervisor starts."""
        return {
            **self.inherited,
            "AURORA_STATE_DIR": str(self.state_dir),
            "AURORA_CONSOLE_URL": self.console_url,
            "AURORA_REPLICA_TOKEN": replica_token,
            "AURORA_WEB_HOST": self.web_host,
            "AURORA_WEB_PORT": str(self.web_port),
            "AURORA_ENGINE_HOST": self.engine_host,
            "AURORA_ENGINE_PORT": str(self.engine_port),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "DJANGO_SETTINGS_MODULE": "aurora_web.settings",
            "PYTHONPATH": f"{REPO}{os.pathsep}{REPO / 'kernels'}",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{self.inherited.get('PATH', os.defpath)}",
        }


def _check_children(environment: Mapping[str, str], web_host: str) -> None:
    """What only the processes to be started read: a wrong value is found before the first of them runs."""
    env.kept(environment)
    env.log_level(environment)
    env.allowed_hosts(environment, web_host)
    env.given_secret_key(environment)
    env.flag(environment, "AURORA_DEBUG", False)
    env.email(environment.get("AURORA_EMAIL_URL", ""))
    env.secret(environment, "AURORA_SGLANG_API_KEY")
    env.oidc(environment)
    env.trainer_device(environment)


def _demo(environment: Mapping[str, str]) -> str:
    value = environment.get("AURORA_DEMO", "")
    if value and value not in demo.CHOICES:
        raise env.wrong("AURORA_DEMO", value, f"expected one of {', '.join(demo.CHOICES)}")
    return value
