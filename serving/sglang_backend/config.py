"""Settings of the SGLang plugin and its sidecar, from environment variables; the only place that reads them."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serving.trace.console import secret
from serving.trace.parts import Recording

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
URL = re.compile(r"https?://[^\s/]+(/\S*)?")
SWITCH = "AURORA_CONSOLE_URL"
TELLING = (SWITCH, "AURORA_REPLICA_TOKEN", "AURORA_TARGET_SLUG", "AURORA_REPLICA", "AURORA_ENGINE_URL")
MOST_MIB = 1 << 24
PLUGIN_VERSION = "0.1.0"
SGLANG_PORT = 30000  # SGLang's own default


class PluginConfigError(ValueError):
    """A variable that cannot be used; the message names it, its value and what would be right."""

    retryable = False


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """One replica of an SGLang server."""

    console_url: str
    token: str
    slug: str
    replica: str
    state_dir: Path
    engine_url: str  # what the console shows, and where SGLang's own /metrics are read
    max_queue_bytes: int  # of states, from the pass to the end of their request; of as many, from there to the disk
    segment_quota_bytes: int
    spool_quota_bytes: int
    is_capture_wanted: bool
    is_prefix_per_draft: bool  # whether cached prefixes are kept apart by the draft that read them
    admin_key: str  # of a server launched with --admin-api-key or --api-key; the sidecar needs it

    def recording(self, engine_name: str, model_path: str, draft_path: str) -> Recording:
        """What recorder, poster and follower need to know."""
        return Recording(
            slug=self.slug,
            replica=self.replica,
            engine_name=engine_name,
            public_url=self.engine_url,
            console_url=self.console_url,
            token=self.token,
            state_dir=self.state_dir,
            segment_quota_bytes=self.segment_quota_bytes,
            spool_quota_bytes=self.spool_quota_bytes,
            max_waiting_bytes=self.max_queue_bytes,
            model_path=model_path,
            draft_path=draft_path,
        )


def is_switched_on(environment: Mapping[str, str] | None = None) -> bool:
    """Without AURORA_CONSOLE_URL the plugin does nothing at all."""
    return bool((os.environ if environment is None else environment).get(SWITCH))


def check_parallel(arguments: Any) -> None:
    """Ranks of a tensor-parallel group agree on what they serve; several groups in a server have nobody who asks all.

    ``arguments``: SGLang's. Raises PluginConfigError.
    """
    for name in ("dp_size", "pp_size"):
        size = getattr(arguments, name, 1) or 1
        if size > 1:
            option = f"--{name.replace('_', '-')} {size}"
            right = "start a server for each, with an AURORA_REPLICA of its own, behind SGLang's router"
            raise PluginConfigError(f"{option} cannot be served by one replica: {right}")


def why_unlabelled(arguments: Any) -> str:
    """Why nobody would read what clients say in headers, "" where somebody does; ``arguments``: SGLang's.

    SGLang 0.5.21 loads plugins into its main process, not into the tokenizer workers that it starts beside it.
    """
    num_workers = getattr(arguments, "tokenizer_worker_num", 1) or 1
    if num_workers == 1:
        return ""
    option = f"--tokenizer-worker-num {num_workers}"
    return f"{option}: SGLang loads no plugin in these processes, so nobody reads what requests say; start it with one"


def load(host: str, port: int, environment: Mapping[str, str] | None = None) -> PluginConfig:
    """The settings of a server that listens on ``host``:``port``. Raises PluginConfigError."""
    given = os.environ if environment is None else environment
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    slug = _name(given, "AURORA_TARGET_SLUG", "")
    machine = re.sub(r"[^a-z0-9_.-]+", "-", socket.gethostname().lower()).strip("-.")
    return PluginConfig(
        console_url=_url(given, SWITCH, ""),
        token=_secret(given, "AURORA_REPLICA_TOKEN"),
        slug=slug,
        replica=_name(given, "AURORA_REPLICA", f"{slug}-{machine}"[:58] + f"-{port}"),
        state_dir=_state_dir(given),
        engine_url=_url(
            given, "AURORA_ENGINE_URL", f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
        ),
        max_queue_bytes=_mib(given, "AURORA_QUEUE_MIB", 2048),
        segment_quota_bytes=_mib(given, "AURORA_SEGMENT_QUOTA_MIB", 8192),
        spool_quota_bytes=_mib(given, "AURORA_SPOOL_QUOTA_MIB", 1024),
        is_capture_wanted=_switch(given, "AURORA_CAPTURE", True),
        is_prefix_per_draft=_switch(given, "AURORA_PREFIX_PER_DRAFT", True),
        admin_key=_secret(given, "AURORA_SGLANG_KEY"),
    )


def to_tell(host: str, port: int, environment: Mapping[str, str] | None = None) -> PluginConfig:
    """The settings as far as they say whom to tell that the others cannot be used. Raises PluginConfigError."""
    given = os.environ if environment is None else environment
    return load(host, port, {"AURORA_STATE_DIR": "/"} | {name: given[name] for name in TELLING if name in given})


def check_state_dir(state_dir: Path) -> None:
    """Make the directory, if need be. Raises PluginConfigError where this process cannot write to it."""
    why = ""
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f": {error.strerror}"
    if why or not os.access(state_dir, os.W_OK | os.X_OK):
        wanted = "must be a directory that this process can write to"
        raise PluginConfigError(f"AURORA_STATE_DIR={str(state_dir)!r}: {wanted}{why}")


def _state_dir(given: Mapping[str, str]) -> Path:
    value = given.get("AURORA_STATE_DIR") or ""
    try:
        if value:
            return Path(value).expanduser().resolve()
    except (RuntimeError, ValueError, OSError):  # no such user, no path at all
        pass
    right = "must be a directory for traces and hidden states that wait"
    raise PluginConfigError(f"AURORA_STATE_DIR={value!r}: {right}")


def _secret(given: Mapping[str, str], variable: str) -> str:
    try:
        return secret(variable, given.get(variable, ""))
    except ValueError as error:
        raise PluginConfigError(str(error)) from None


def _name(given: Mapping[str, str], variable: str, default: str) -> str:
    value = given.get(variable) or default
    if not NAME.fullmatch(value):
        raise PluginConfigError(
            f"{variable}={value!r}: must be 1 to 64 of a-z, 0-9, _ . - and begin with a letter or digit"
        )
    return value


def _url(given: Mapping[str, str], variable: str, default: str) -> str:
    value = given.get(variable) or default
    if not URL.fullmatch(value) or not _is_reachable(value):
        raise PluginConfigError(f"{variable}={value!r}: must be an address like http://127.0.0.1:8000")
    return value


def _is_reachable(url: str) -> bool:
    try:
        port = httpx.URL(url).port
    except (httpx.InvalidURL, ValueError):
        return False
    return port is None or 1 <= port <= 65535


def _mib(given: Mapping[str, str], variable: str, default: int) -> int:
    value = given.get(variable) or str(default)
    if not re.fullmatch("[0-9]{1,9}", value) or not 1 <= int(value) <= MOST_MIB:
        raise PluginConfigError(f"{variable}={value[:40]!r}: must be a whole number of MiB between 1 and {MOST_MIB}")
    return int(value) << 20


def _switch(given: Mapping[str, str], variable: str, default: bool) -> bool:
    value = (given.get(variable) or ("on" if default else "off")).lower()
    if value not in ("on", "off"):
        raise PluginConfigError(f"{variable}={value!r}: must be on or off")
    return value == "on"
