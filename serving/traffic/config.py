"""Settings of ``python -m serving.traffic``: where the plans come from, or the one plan that the command line gives."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.trace.console import secret
from serving.traffic.domains.registry import DOMAINS, POCKET, REAL
from serving.traffic.plan import MAX_WEIGHT, Mix, Plan, or_real

DEFAULT_CONSOLE = "http://127.0.0.1:8000"
URL = re.compile(r"https?://[^\s/]+(/\S*)?")
# Options of a fixed plan, with what each is without being given
PLAN_DEFAULTS = {
    "model": "",
    "concurrency": "4",
    "requests_per_second": "0",
    "max_tokens": "128",
    "mix": "",
    "sampled_share": "0.5",
    "schedule": "[]",
}


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it, its value and what would be right."""

    retryable = False


@dataclass(frozen=True, slots=True)
class TrafficConfig:
    """Where the plans come from."""

    console_url: str
    token: str  # of the console, scope ingest
    plan: Plan | None  # fixed: no console is asked
    sent_file: Path | None  # what was sent before; None = only this process remembers


def load(argv: Sequence[str] | None, environment: Mapping[str, str] | None = None) -> TrafficConfig:
    """Options win over the environment. Raises ConfigError; an unknown option ends the process with a usage."""
    given = {name: value for name, value in vars(_parser().parse_args(argv)).items() if value is not None}
    environment = os.environ if environment is None else environment
    source = "--console-url" if "console_url" in given else "AURORA_CONSOLE_URL"
    console_url = given.get("console_url") or environment.get("AURORA_CONSOLE_URL") or DEFAULT_CONSOLE
    try:
        named = "--token" if "token" in given else "AURORA_REPLICA_TOKEN"
        token = secret(named, given.get("token") or environment.get("AURORA_REPLICA_TOKEN") or "")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    state_dir = environment.get("AURORA_STATE_DIR")
    sent_file = Path(state_dir).expanduser() / "traffic" / "sent" if state_dir else None
    return TrafficConfig(_url(source, console_url, DEFAULT_CONSOLE), token, _fixed_plan(given), sent_file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.traffic",
        description="Real prompts for the engines that a console has plans for, or for one engine (--engine-url).",
        epilog=f"Domains of real prompts: {', '.join(REAL)}. Those of the pocket target: {', '.join(POCKET)}.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--console-url", help=f"Aurora's console, which makes the plans (AURORA_CONSOLE_URL, {DEFAULT_CONSOLE})")
    add("--token", help="console token of scope ingest; better in AURORA_REPLICA_TOKEN, where ps does not show it")
    add("--engine-url", help="send to this engine, like http://127.0.0.1:8100, and ask no console")
    fixed = parser.add_argument_group("with --engine-url")
    add = fixed.add_argument
    add("--model", help="what the engine calls its target")
    add("--concurrency", help="requests at once, 1 to 64 (4)")
    add("--requests-per-second", help="0 = as many as the concurrency allows (0)")
    add("--max-tokens", help="tokens per answer, 1 to 4096 (128)")
    add("--mix", help="domains with weights, like sql_schema=1,chat=2; default: all real prompts alike")
    add("--sampled-share", help="share of requests at temperature 0.7, the others are greedy (0.5)")
    add("--schedule", help='phases, repeated: \'[{"seconds": 120, "mix": {"chat": 1}}, ...]\'')
    return parser


def _fixed_plan(given: Mapping[str, str]) -> Plan | None:
    if "engine_url" not in given:
        needless = [name for name in PLAN_DEFAULTS if name in given]
        if needless:
            raise ConfigError(
                f"{_option(needless[0])}={given[needless[0]]!r}: only with --engine-url, the console plans"
            )
        return None
    text = {**PLAN_DEFAULTS, **given}
    if not text["model"]:
        raise ConfigError("--engine-url needs --model: what the engine calls its target (see its /v1/models)")
    return Plan(
        slug=text["model"],
        engine_url=_url("--engine-url", text["engine_url"], "http://127.0.0.1:8100"),
        enabled=True,
        concurrency=int(_number(text, "concurrency", int, 1, 64)),
        requests_per_second=_number(text, "requests_per_second", float, 0, 10_000),
        mix=or_real(_mix(text["mix"])),
        max_tokens=int(_number(text, "max_tokens", int, 1, 4096)),
        sampled_share=_number(text, "sampled_share", float, 0, 1),
        schedule=_schedule(text["schedule"]),
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _url(source: str, value: str, example: str) -> str:
    if not URL.fullmatch(value):
        raise ConfigError(f"{source}={value!r}: must be an address like {example}")
    return value.rstrip("/")


def _number(text: Mapping[str, str], name: str, kind: type[int] | type[float], low: float, high: float) -> float:
    try:
        number = kind(text[name])
    except ValueError:
        number = None
    if number is None or not low <= number <= high:
        words = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{_option(name)}={text[name]!r}: must be {words} between {low:,g} and {high:,g}")
    return number


def _mix(text: str) -> Mix:
    """``sql_schema=1,chat=2``; a weight that is left out is 1."""
    mix = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, weight = part.partition("=")
        mix[name.strip()] = _weight("--mix", part, weight if equals else 1)
    return _of_known_domains("--mix", text, mix)


def _schedule(text: str) -> tuple[tuple[float, Mix], ...]:
    """The same JSON as in the console's settings."""
    expected = 'must be like [{"seconds": 120, "mix": {"chat": 1}}], with seconds above 0'
    try:
        phases = [(float(phase["seconds"]), dict(phase["mix"])) for phase in json.loads(text)]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--schedule={text!r:.200}: {expected}") from error
    if not all(seconds > 0 for seconds, _ in phases):
        raise ConfigError(f"--schedule={text!r:.200}: {expected}")
    return tuple((seconds, or_real(_of_known_domains("--schedule", text, mix))) for seconds, mix in phases)


def _of_known_domains(option: str, text: str, mix: Mapping[str, Any]) -> Mix:
    unknown = sorted(mix.keys() - DOMAINS.keys())
    if unknown:
        raise ConfigError(f"{option}={text!r:.200}: unknown domain {unknown[0]!r}; known: {', '.join(DOMAINS)}")
    return {name: _weight(option, text, weight) for name, weight in mix.items()}


def _weight(option: str, text: str, weight: Any) -> float:
    try:
        number = float(weight)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= MAX_WEIGHT:
        raise ConfigError(f"{option}={text!r:.200}: a weight must be a number from 0 to 1,000,000, not {weight!r:.40}")
    return number
