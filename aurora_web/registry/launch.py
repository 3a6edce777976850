"""The exact command that serves a target with SGLang and Aurora's plugin, made from the target and its first version.

One place for the page, the API and the docs. The token is never part of it: the command refuses to start without one.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from aurora_web.registry.models import SpeculatorVersion, Target
from aurora_web.registry.services import find_version

VARIANTS = {"gpu": "GPU", "cpu": "CPU, for development"}
FIRST_PORT = 30000
MAX_REPLICAS = 64
HALVES = ("bfloat16", "float16")
TOKEN = "AURORA_REPLICA_TOKEN"
# What a CPU without SGLang's own kernels can do; the environment of `make sglang-cpu` brings stand-ins for them.
CPU_ENVIRONMENT = {"SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
CPU_ARGUMENTS = (
    ("--device", "cpu"),
    ("--dtype", "float32"),
    ("--attention-backend", "intel_amx"),
    ("--cuda-graph-backend-decode", "disabled"),  # with graphs SGLang cannot build the control's state on a CPU
    ("--mem-fraction-static", "0.3"),
    ("--max-total-tokens", "16384"),
    ("--max-running-requests", "16"),
)


@dataclass(frozen=True, slots=True)
class Launch:
    """One replica's command: environment, then arguments (a flag and its values each)."""

    replica: str
    environment: dict[str, str]  # without the token
    arguments: tuple[tuple[str, ...], ...]
    draft: SpeculatorVersion | None  # None = version 1 is still being made

    @property
    def command(self) -> str:
        """For a POSIX shell, one setting a line."""
        token = f'{TOKEN}="${{{TOKEN}:?export the replica token first}}"'
        lines = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        arguments = [" ".join(shlex.quote(part) for part in group) for group in self.arguments]
        return " \\\n  ".join([*lines, token, "python -m sglang.launch_server", *arguments])


def launch(target: Target, variant: str = "gpu", replica: int = 1) -> Launch:
    """The command of the ``replica``-th replica (from 1). Raises ValueError for an unknown variant or number."""
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}, expected one of {', '.join(VARIANTS)}")
    if not 1 <= replica <= MAX_REPLICAS:
        raise ValueError(f"replica is {replica}, expected 1 to {MAX_REPLICAS}")
    port = FIRST_PORT + replica - 1
    name = f"{target.slug[:58]}-{port}"
    draft = _draft(target)
    environment = {
        "AURORA_CONSOLE_URL": settings.CONSOLE_URL,
        "AURORA_TARGET_SLUG": target.slug,
        "AURORA_REPLICA": name,
        "AURORA_ENGINE_URL": f"http://127.0.0.1:{port}",
        "AURORA_STATE_DIR": str(settings.STATE_DIR),
        "AURORA_CAPTURE": "on",
        **(CPU_ENVIRONMENT if variant == "cpu" else {}),
    }
    arguments = _arguments(target, draft, port)
    arguments += CPU_ARGUMENTS if variant == "cpu" else (("--dtype", dtype_of(target.config)),)
    return Launch(name, environment, arguments, draft)


def _arguments(target: Target, draft: SpeculatorVersion | None, port: int) -> tuple[tuple[str, ...], ...]:
    lookahead = max(target.max_lookahead, 1)  # SGLang counts the bonus token too: lookahead + 1
    return (
        ("--model-path", target.origin),
        ("--served-model-name", target.slug),
        ("--host", "127.0.0.1"),
        ("--port", str(port)),
        ("--speculative-algorithm", "EAGLE3"),
        ("--speculative-draft-model-path", draft.uri if draft else "VERSION-1-IS-BEING-MADE"),
        ("--speculative-num-steps", str(lookahead)),
        ("--speculative-eagle-topk", "1"),
        ("--speculative-num-draft-tokens", str(lookahead + 1)),
        ("--enable-metrics",),
    )


def dtype_of(config: dict[str, Any]) -> str:
    """What target and draft compute in: SGLang's choice for the target, float16 where it is stored in 32 bits.

    Left out, SGLang chooses for each by its own config.json. Drafts are stored in 32 bits, so beside a bfloat16 target
    one would be float16, and the server would end with its first draft step.
    """
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return stored if stored in HALVES else "float16"


def _draft(target: Target) -> SpeculatorVersion | None:
    """What the server starts with: version 1, whose files are kept; the plugin takes the desired one at once."""
    first = target.versions.filter(number=1, pruned_at=None).first()
    return first or find_version(target, "@live")


def launch_payload(target: Target, variant: str, replica: int) -> dict[str, object]:
    """A launch as the API gives it. Raises ValueError."""
    found = launch(target, variant, replica)
    return {
        "replica": found.replica,
        "is_ready": found.draft is not None,
        "environment": found.environment,
        "token_variable": TOKEN,
        "arguments": [part for group in found.arguments for part in group],
        "command": found.command,
    }
