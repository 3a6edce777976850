"""Settings of the demo's traffic generator."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from serving.config import URL, ConfigError

DEFAULT_CONSOLE = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class TrafficConfig:
    """Where the plan comes from."""

    console_url: str
    token: str


def load(given: Mapping[str, str | None], environment: Mapping[str, str] | None = None) -> TrafficConfig:
    """Options win over the environment. Raises ConfigError naming the value and what would be right."""
    environment = os.environ if environment is None else environment
    url = given.get("console_url") or environment.get("AURORA_CONSOLE_URL") or DEFAULT_CONSOLE
    if not URL.fullmatch(url):
        raise ConfigError(f"AURORA_CONSOLE_URL={url!r}: must be an address like {DEFAULT_CONSOLE}")
    token = given.get("token") or environment.get("AURORA_REPLICA_TOKEN") or ""
    return TrafficConfig(url.rstrip("/"), token)
