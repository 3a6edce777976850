"""Settings of ``python -m serving``: command line first, then the environment, then defaults."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.engine.config import MAX_LOOKAHEAD, EngineConfig
from serving.trace.console import secret
from serving.trace.parts import Recording

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
URL = re.compile(r"https?://[^\s/]+(/\S*)?")
REPOSITORY = Path(__file__).resolve().parent.parent


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it, its value and what would be right."""

    retryable = False


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """One engine process."""

    target_dir: Path  # Hugging Face directory
    slug: str  # what the target is called in the API and at the console
    host: str
    port: int
    public_url: str  # what the console shows
    state_dir: Path
    replica: str  # names the spool: the same after a restart, on another port too; different for each engine
    console_url: str  # "" = alone: no traces, no swaps
    token: str  # of the console, scope "ingest"
    initial_draft: Path | None  # served until the console desires another
    num_threads: int  # of torch
    grace_seconds: float  # for running requests at a stop
    segment_age_seconds: float
    segment_bytes: int
    segment_quota_bytes: int
    spool_quota_bytes: int
    max_open_requests: int
    engine: EngineConfig

    def recording(self, engine_name: str) -> Recording:
        """What the parts beside the engine need to know."""
        return Recording(
            slug=self.slug,
            replica=self.replica,
            engine_name=engine_name,
            public_url=self.public_url,
            console_url=self.console_url,
            token=self.token,
            state_dir=self.state_dir,
            segment_age_seconds=self.segment_age_seconds,
            segment_bytes=self.segment_bytes,
            segment_quota_bytes=self.segment_quota_bytes,
            spool_quota_bytes=self.spool_quota_bytes,
        )


def load(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> ServingConfig:
    """Read the settings. Raises ConfigError; an unknown option ends the process with argparse's usage."""
    given = vars(_parser().parse_args(argv))
    reader = _Reader(given, os.environ if environment is None else environment)
    target_dir = Path(reader.text("target", "AURORA_TARGET", "")).expanduser()
    if not (target_dir / "config.json").is_file():
        raise ConfigError(f"--target {str(target_dir)!r}: must be a Hugging Face directory with a config.json in it")
    slug = reader.name("slug", "AURORA_TARGET_SLUG", target_dir.resolve().name.lower())
    host = reader.text("host", "AURORA_ENGINE_HOST", "127.0.0.1")
    port = int(reader.number("port", "AURORA_ENGINE_PORT", 8100, 1, 65535))
    draft = reader.text("draft", "AURORA_DRAFT", "")
    return ServingConfig(
        target_dir=target_dir.resolve(),
        slug=slug,
        host=host,
        port=port,
        public_url=reader.url("public_url", "AURORA_ENGINE_URL", _url_of(host, port)),
        state_dir=Path(reader.text("state_dir", "AURORA_STATE_DIR", str(REPOSITORY / ".state"))).expanduser().resolve(),
        replica=reader.name("replica", "AURORA_REPLICA", f"{slug[:58]}-{port}"),
        console_url=reader.url("console_url", "AURORA_CONSOLE_URL", ""),
        token=reader.secret("token", "AURORA_REPLICA_TOKEN"),
        initial_draft=Path(draft).expanduser().resolve() if draft else None,
        num_threads=int(reader.number("num_threads", "AURORA_ENGINE_THREADS", 1, 1, 1024)),
        grace_seconds=reader.number("grace_seconds", "AURORA_ENGINE_GRACE_SECONDS", 5.0, 0.0, 3600.0),
        segment_age_seconds=reader.number("segment_age_seconds", "AURORA_SEGMENT_AGE_SECONDS", 2.0, 0.05, 3600.0),
        segment_bytes=_mib(reader.number("segment_mib", "AURORA_SEGMENT_MIB", 64, 1, 4096)),
        segment_quota_bytes=_mib(reader.number("segment_quota_mib", "AURORA_SEGMENT_QUOTA_MIB", 8192, 1, 1 << 24)),
        spool_quota_bytes=_mib(reader.number("spool_quota_mib", "AURORA_SPOOL_QUOTA_MIB", 1024, 1, 1 << 24)),
        max_open_requests=int(reader.number("max_open_requests", "AURORA_MAX_OPEN_REQUESTS", 256, 1, 1 << 16)),
        engine=_engine_config(reader),
    )


def _engine_config(reader: _Reader) -> EngineConfig:
    defaults = EngineConfig()
    try:
        return EngineConfig(
            max_requests=int(reader.number("max_requests", "AURORA_MAX_REQUESTS", defaults.max_requests, 1, 1024)),
            max_len=int(reader.number("max_len", "AURORA_MAX_LEN", defaults.max_len, 2, 1 << 20)),
            max_lookahead=int(
                reader.number("max_lookahead", "AURORA_MAX_LOOKAHEAD", defaults.max_lookahead, 0, MAX_LOOKAHEAD)
            ),
            control_share=reader.number("control_share", "AURORA_CONTROL_SHARE", defaults.control_share, 0.0, 1.0),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        description="Serve a target with a speculator that keeps learning.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--target", help="Hugging Face directory of the target (AURORA_TARGET)")
    add("--slug", help="name of the target in the API and at the console; default: the directory's name")
    add("--host", help="address to listen on (AURORA_ENGINE_HOST, 127.0.0.1)")
    add("--port", help="port to listen on (AURORA_ENGINE_PORT, 8100)")
    add("--public-url", help="address that the console shows; default: http://HOST:PORT")
    add("--state-dir", help="traces that wait, hidden states, the last desired version (AURORA_STATE_DIR)")
    add("--replica", help="name of this engine, the same after a restart; default: SLUG-PORT")
    add(
        "--console-url", help="Aurora's console (AURORA_CONSOLE_URL); without it no traces are kept, no version changes"
    )
    add("--token", help="console token of scope ingest; better in AURORA_REPLICA_TOKEN, where ps does not show it")
    add("--draft", help="speculator checkpoint to serve until the console desires another")
    add("--max-requests", help="requests decoded at once")
    add("--max-open-requests", help="requests running and waiting before clients get a 429")
    add("--max-len", help="longest prompt + answer in tokens")
    add("--max-lookahead", help="most draft tokens per verify step, until the console says otherwise")
    add("--control-share", help="share of steps decoded without speculation, until the console says otherwise")
    add("--num-threads", help="torch threads")
    add("--grace-seconds", help="how long running requests may go on after SIGTERM")
    add("--segment-age-seconds", help="seal hidden states at this age")
    add("--segment-mib", help="seal hidden states at this size")
    add("--segment-quota-mib", help="most hidden states kept on disk")
    add("--spool-quota-mib", help="most announcements kept on disk while the console is away")
    return parser


class _Reader:
    """One setting at a time; errors name the option or the variable that the value came from."""

    def __init__(self, given: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._given = given
        self._environment = environment

    def _find(self, option: str, variable: str) -> tuple[str, str | None]:
        if self._given.get(option) is not None:
            return "--" + option.replace("_", "-"), self._given[option]
        return variable, self._environment.get(variable) or None

    def text(self, option: str, variable: str, default: str) -> str:
        return self._find(option, variable)[1] or default

    def secret(self, option: str, variable: str) -> str:
        name, value = self._find(option, variable)
        try:
            return secret(name, value or "")
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def number(self, option: str, variable: str, default: float, low: float, high: float) -> float:
        name, value = self._find(option, variable)
        if value is None:
            return default
        kind = "a whole number" if isinstance(default, int) else "a number"
        try:
            number = int(value) if isinstance(default, int) else float(value)
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            raise ConfigError(f"{name}={value!r}: must be {kind} between {low:g} and {high:g}")
        return number

    def name(self, option: str, variable: str, default: str) -> str:
        name, value = self._find(option, variable)
        if not NAME.fullmatch(value or default):
            expected = "must be 1 to 64 of a-z, 0-9, _ . - and begin with a letter or digit"
            raise ConfigError(f"{name}={value or default!r}: {expected}")
        return value or default

    def url(self, option: str, variable: str, default: str) -> str:
        name, value = self._find(option, variable)
        if value is not None and not URL.fullmatch(value):
            raise ConfigError(f"{name}={value!r}: must be an address like http://127.0.0.1:8000")
        return value or default


def _mib(value: float) -> int:
    return int(value) << 20


def _url_of(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
