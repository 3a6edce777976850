"""What the console hands the trainer and gets back, and the trainer's one setting; no Django, no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from speculators.records import EvalReport, StepRecord, TrainProgress, VersionManifest

DEVICE = "AURORA_TRAINER_DEVICE"  # auto (cuda where there is one, else cpu), cpu, cuda or cuda:N


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it, its value and what would be right."""


def wanted_device(environment: Mapping[str, str] | None = None) -> str:
    """What DEVICE says; whether the machine has it is for training_worker.device to find out. Raises ConfigError."""
    wanted = (os.environ if environment is None else environment).get(DEVICE, "").strip() or "auto"
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", wanted):
        raise ConfigError(f"{DEVICE}={wanted!r}: must be auto, cpu, cuda or cuda:N with the number of a GPU")
    return wanted


@dataclass(frozen=True, slots=True)
class TraceSource:
    """One trace to learn from or to evaluate on: its tokens, its steps, and where its hidden states lie."""

    trace_id: str
    domain: str
    tokens: tuple[int, ...]  # prompt, then every generated token
    prompt_len: int
    temperature: float
    steps: tuple[StepRecord, ...]
    segment_uri: str  # absolute path of the .safetensors segment; "" = expired
    first_state: int  # first token position whose hidden states are in the segment
    lookahead: int
    aux_layer_ids: tuple[int, ...] = ()  # that the segment's states are of; () = there is none, or nobody knows

    @property
    def num_positions(self) -> int:
        """Of its states: those after the last token have never been computed."""
        return len(self.tokens) - 1 - self.first_state

    @property
    def first_base(self) -> int:
        """The first of its states' positions that an engine drafts from."""
        return max(0, self.prompt_len - 1 - self.first_state)


@dataclass(frozen=True, slots=True)
class SliceJob:
    """A bounded slice of training for one run. ``fresh`` and ``replay`` are trained on, ``held_out`` never is.

    Without traces, with ``parent_uri == ""`` and ``publish`` it is the day-0 job: a version with random weights.
    Raises ValueError with the ids of traces that are on both sides.
    """

    target_slug: str
    target_path: str  # checkpoint directory of the target; "" or unreadable = only day 0 can be done, from the config
    run_id: str
    work_dir: str  # optimiser state lives here and is resumed exactly
    versions_dir: str  # candidates are written to versions_dir/<uuid4 hex>/
    parent_version: int | None
    parent_uri: str  # "" = start from random weights, when work_dir holds no state yet
    live_uri: str  # "" = no live version to compare with
    fresh: tuple[TraceSource, ...]
    replay: tuple[TraceSource, ...]
    held_out: tuple[TraceSource, ...]
    lookahead: int
    budget_seconds: float  # of optimiser steps; loading, evaluation and saving come on top, each bounded
    seed: int
    code_version: str
    publish: bool  # evaluate and write a candidate at the end
    target_config: dict[str, Any] = field(default_factory=dict)  # config.json, for a day 0 without the directory
    import_path: str = ""  # day 0: an EAGLE-3 checkpoint directory that version 1 is made of
    follows_vocabulary: bool = False  # the engine takes a version that proposes other tokens than the one before
    import_name: str = ""  # what that is a copy of, like "demo v3"; "" = somebody's own checkpoint

    def __post_init__(self) -> None:
        held_out = {source.trace_id for source in self.held_out}
        trained = {source.trace_id for source in (*self.fresh, *self.replay)}
        if both := sorted(held_out & trained):
            raise ValueError(f"to be trained on and held out: {', '.join(both)}")


@dataclass(frozen=True, slots=True)
class SliceResult:
    """What a slice did; ``manifest`` and ``report`` are None when nothing was published or compared."""

    manifest: VersionManifest | None
    report: EvalReport | None
    progress: TrainProgress
    trained_trace_ids: tuple[str, ...]
    missing_trace_ids: tuple[str, ...]  # hidden states gone or corrupt, and no target at hand to recompute them
