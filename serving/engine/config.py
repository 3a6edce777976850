"""Settings of one engine."""

from __future__ import annotations

from dataclasses import dataclass

MAX_LOOKAHEAD = 16


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Values that an engine starts with; a bad one raises ValueError naming it.

    ``fixed_lookahead`` switches the adaptive choice off (tests and benchmarks).
    """

    max_requests: int = 8  # served at once; more wait
    max_len: int = 1024  # prompt + generated tokens of one request; cut to the target's own limit
    max_lookahead: int = 6
    fixed_lookahead: int | None = None
    control_share: float = 0.02
    prefill_chunk: int = 256  # prompt tokens per forward pass
    probe_steps: int = 32  # speculative steps that make up the probe after a swap
    seed: int | None = None  # of the control lottery

    def __post_init__(self) -> None:
        _check("max_requests", self.max_requests, 1, 1024)
        _check("max_len", self.max_len, 2, 1 << 20)
        _check("max_lookahead", self.max_lookahead, 0, MAX_LOOKAHEAD)
        _check("control_share", self.control_share, 0.0, 1.0)
        _check("prefill_chunk", self.prefill_chunk, 1, 1 << 20)
        _check("probe_steps", self.probe_steps, 1, 1 << 20)
        if self.fixed_lookahead is not None:
            _check("fixed_lookahead", self.fixed_lookahead, 0, MAX_LOOKAHEAD)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r}: must lie between {low} and {high}")
