"""What an engine is given and what it gives back: the types between the engine and what runs beside it.

Callbacks run on the engine's thread between two steps: they must return at once (append to a queue, wake a loop) and
never raise. Everything else here may be called from any thread.

Shapes: T token positions, K aux layers, Ht target hidden size. Times are Unix seconds (UTC), durations seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from serving.engine.pins import Pins
from speculators.records import StepRecord, VersionSpan

FinishReason = Literal["stop", "length", "cancelled", "error"]


class SwapError(RuntimeError):
    """A version that this engine cannot serve; the message says why."""

    retryable = False


class DamagedDraftError(SwapError):
    """A draft that has waited in memory is not what was read any more; its file may be."""


class EngineAwayError(SwapError):
    """The engine cannot be reached now, which says nothing about the version; it is asked again when it is back."""

    retryable = True


class EngineSlowError(SwapError):
    """The engine has not taken a version up in time, which says nothing about the version; it is tried again."""

    retryable = True


class RequestError(ValueError):
    """A request that this engine cannot serve; the message names the field, its value and what would be right."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. ``temperature`` below LEAST_TEMPERATURE is greedy; ``seed`` None draws a fresh one."""

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()  # besides the target's own end-of-sequence tokens
    ignore_eos: bool = False  # generate on through end-of-sequence tokens; stop_token_ids still stop


@dataclass(frozen=True, slots=True)
class Part:
    """What one version did: the counts of some verify steps that were all decoded alike.

    An engine that swaps under running requests has several per request; what is decoded without speculation for the
    control comes as one part per domain and block of steps (docs/decisions/007).
    """

    version: int  # as in CountWindow
    lookahead: int
    mean_batch_size: float
    num_verify_steps: int
    num_proposed_drafts: int
    num_correct_drafts: int
    num_accept_tokens: int
    decode_seconds: float
    num_plain_steps: int  # of the verify steps, those that had no draft to verify


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A request that left the engine, with all that a TraceRecord and a CountWindow need."""

    request_id: str
    domain: str
    version: int  # speculator version that served it; 0 = none
    tokens: tuple[int, ...]  # prompt, then every generated token
    prompt_len: int
    temperature: float
    finish_reason: FinishReason
    started_at: float  # when it was submitted
    prefill_seconds: float  # engine time of its prefill, the draft's included
    decode_seconds: float  # engine time of the verify steps that it took part in
    mean_batch_size: float  # requests per verify step, averaged over its steps; 1.0 when it took none
    lookahead: int  # upper bound it was admitted with; 0 = a control by choice, or speculation pinned off
    steps: tuple[StepRecord, ...]  # partition tokens[prompt_len + 1:]
    states: Tensor | None  # float16 [T, K*Ht], T = len(tokens) - 1; None when not kept
    final: Tensor | None  # float16 [T, Ht] after the target's final norm; None when not kept
    error: str = ""  # why, when finish_reason is "error"
    first_state: int = 0  # states and final start at this position (a cached prefix has none): T is as much smaller
    # To be counted instead of the whole; None: one version served all of it, and none of its steps was the control's
    parts: tuple[Part, ...] | None = None
    version_spans: tuple[VersionSpan, ...] = ()  # as in TraceRecord

    @property
    def num_verify_steps(self) -> int:
        return len(self.steps)

    @property
    def num_plain_steps(self) -> int:
        return sum(not s.proposed for s in self.steps)

    @property
    def num_proposed_drafts(self) -> int:
        return sum(len(s.proposed) for s in self.steps)

    @property
    def num_correct_drafts(self) -> int:
        return sum(s.num_correct_drafts for s in self.steps)

    @property
    def num_accept_tokens(self) -> int:
        """Tokens committed after the first one (which comes from the prefill)."""
        return max(0, len(self.tokens) - self.prompt_len - 1)


def ignore_tokens(tokens: tuple[int, ...]) -> None:
    """The ``on_tokens`` of a request that nobody streams."""


def ignore_step(step: StepRecord) -> None:
    """The ``on_step`` of a request whose drafts nobody looks at."""


def ignore_finish(finished: FinishedRequest) -> None:
    """The ``on_finish`` of a request that nobody waits for."""


@dataclass(frozen=True, slots=True)
class Request:
    """One generation. ``request_id`` must be unique among running requests (uuid4 hex; it becomes the trace id)."""

    request_id: str
    prompt: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    domain: str = "default"
    keep_states: bool = True  # False: no hidden states are kept (x-aurora-no-train)
    # None: its steps take part in the control's lottery. True: none of them drafts, and they are counted under the live
    # version with lookahead 0, since only what was drawn by lot may be compared with.
    is_control: bool | None = None
    is_alone: bool = (
        False  # a group of its own: its seconds are those of a batch of one, and the others wait a turn more
    )
    on_step: Callable[[StepRecord], None] = ignore_step  # before the on_tokens of its verify step
    on_tokens: Callable[[tuple[int, ...]], None] = ignore_tokens  # new tokens of one step, at least one
    on_finish: Callable[[FinishedRequest], None] = ignore_finish  # exactly once, after the last on_tokens


def ignore_control(domain: str, part: Part) -> None:
    """What an engine does with the control when nobody counts."""


class LoadedDraft(Protocol):
    """A speculator in memory, ready to serve; made by ``EngineApi.load_draft`` on the caller's thread."""

    @property
    def sha256(self) -> str: ...  # of the tensors in memory: equals the checkpoint file's digest


@dataclass(frozen=True, slots=True)
class SwapOutcome:
    """The proof of one swap."""

    version: int
    sha256: str  # of what is in memory, or what was found instead of it; "" = no speculation
    previous: int | None  # version that ``revert`` would return to
    swap_ms: float  # time that the engine's loop spent on it


@dataclass(frozen=True, slots=True)
class Probe:
    """Accept length over the first speculative steps after a swap."""

    version: int
    num_steps: int
    num_accept_tokens: int
    is_complete: bool

    @property
    def accept_length(self) -> float:
        """0 when nothing is measured yet."""
        return self.num_accept_tokens / self.num_steps if self.num_steps else 0.0


@dataclass(frozen=True, slots=True)
class DomainStats:
    """What the engine currently believes about one domain under the live version."""

    domain: str
    tokens_per_step: float  # of late; 1 = as without speculation


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot; counters only rise."""

    version: int
    sha256: str
    previous: int | None
    num_running: int
    num_waiting: int
    num_finished: int
    num_verify_steps: int
    num_proposed_drafts: int
    num_correct_drafts: int
    num_accept_tokens: int
    num_errors: int  # exceptions caught at the top of the loop
    probe: Probe | None  # of the last swap
    reverted_from: int | None  # version that the engine itself took out of service since the last swap()
    revert_detail: str  # why
    domains: tuple[DomainStats, ...]
    step_seconds: tuple[float, ...] = ()  # by lookahead, at the batch size of late; () = not measured
    waits_for: str = ""  # what keeps a command to the engine waiting, once that is worth saying
    away: str = ""  # why nothing is served now; then version is 0. "" where this process decodes itself


class FollowedEngine(Protocol):
    """The engine as the loop to the console sees it: which version serves, and how to change that."""

    @property
    def pins(self) -> Pins: ...  # obeyed by requests admitted from then on

    def load_draft(self, directory: Path, expected_sha256: str | None = None) -> LoadedDraft:
        """Read, check and prepare a checkpoint on the caller's thread. Raises CheckpointError."""

    def swap(self, version: int, draft: LoadedDraft | None, *, min_accept_length: float = 0.0) -> Future[SwapOutcome]:
        """Serve with this version from the next step on; ``draft`` None (version 0) = no speculation.

        When ``min_accept_length`` > 0 and the probe ends below it, and below what the version before did in its last
        steps where that is known, the engine reverts by itself and says so in its stats. Raises SwapError, or the
        future does, when this engine cannot serve it, EngineAwayError before anything of it was tried, EngineSlowError
        where it may be tried again as it is.
        """

    def revert(self, detail: str) -> Future[SwapOutcome]:
        """Return to the previous version, still in memory. The future raises LookupError when there is none.

        Raises SwapError where it is known to be damaged.
        """

    def set_policy(self, *, control_share: float | None = None, max_lookahead: int | None = None) -> None:
        """Change the share of the control (0..1) and the upper bound of lookahead from now on.

        Raises ValueError naming the value.
        """

    def stats(self) -> EngineStats: ...


class EngineApi(FollowedEngine, Protocol):
    """The engine as its server sees it; ``serving.engine.engine.Engine`` is the implementation.

    Running requests keep their version when another is swapped in.
    """

    @property
    def aux_layer_ids(self) -> tuple[int, ...]: ...

    @property
    def max_len(self) -> int: ...  # longest prompt + generated tokens

    @property
    def is_alive(self) -> bool: ...

    def start(self, on_control: Callable[[str, Part], None] = ignore_control) -> None:
        """Calibrate costs and start the loop's thread; returns when requests can be served.

        ``on_control`` is told (domain, part) at the end of each block of steps of the control, on the engine's thread.
        """

    def stop(self, timeout: float = 10.0) -> None:
        """Finish the current step, end every request as "cancelled", join the thread."""

    def submit(self, request: Request) -> None:
        """Queue a request. Raises RequestError when it can never be served (empty, too long, unknown token, ...)."""

    def cancel(self, request_id: str, reason: FinishReason = "cancelled") -> None:
        """End a request before its next step; on_finish reports ``reason`` ("stop" for a stop string)."""
