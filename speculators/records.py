"""The wire records: every fact and every intent that travels round the ring, on one screen.

Standard library only, frozen and slotted, never a tensor: the web side imports this module without torch.
``to_json`` / ``from_json`` are the only codec; an unknown or missing field is a ``RecordError`` naming it.

Counting words (docs/architecture.md): ``num_correct_drafts`` excludes the bonus token, ``num_accept_tokens``
includes it. ``lookahead`` is draft tokens per verify step, bonus excluded. Times are Unix seconds (UTC).
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

NO_DRAFT = -1  # in place of a version: nothing was there that could draft, or be compared with what does
# Characters that the console takes of an ObservedState's texts
LONGEST_SHA256, LONGEST_DETAIL, LONGEST_HOST = 64, 10_000, 255


class RecordError(ValueError):
    """A payload that is not the record it claims to be; the message names record, field and value."""


class Record:
    """JSON codec shared by all wire records."""

    __slots__: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> dict[str, Any]:
        return {f.name: _encode(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, payload: Any) -> Self:
        if not isinstance(payload, dict):
            raise RecordError(f"{cls.__name__}: expected an object, got {type(payload).__name__}")
        hints, required = _shape(cls)  # type: ignore[arg-type]
        unknown = payload.keys() - hints.keys()
        missing = required - payload.keys()
        if unknown or missing:
            raise RecordError(f"{cls.__name__}: unknown fields {sorted(unknown)}, missing fields {sorted(missing)}")
        return cls(**{k: _decode(hints[k], v, f"{cls.__name__}.{k}") for k, v in payload.items()})


class StepOutcome(NamedTuple):
    """What became of the tokens of one verify step; ids of the target's vocabulary.

    Drafts are checked from left to right: the correct ones are kept, the first wrong one is *rejected*, those after it
    are *dropped* unchecked, and the target's own token, the *bonus*, closes the step.
    """

    correct: tuple[int, ...]
    rejected: tuple[int, ...]  # none or one
    dropped: tuple[int, ...]
    bonus: tuple[int, ...]  # none where the request ended within the correct drafts: its last token is a draft too


@dataclass(frozen=True, slots=True)
class StepRecord(Record):
    """One verify step of one request: what was proposed, what was kept."""

    proposed: tuple[int, ...]  # [lookahead] draft token ids, rejected ones included
    num_correct_drafts: int  # 0..lookahead; the step commits num_correct_drafts + 1 tokens
    # The committed tokens are TraceRecord.tokens, in order; steps partition tokens[prompt_len + 1:].

    def outcome(self, kept: Sequence[int]) -> StepOutcome:
        """Tell the tokens apart; ``kept`` are those that the step committed."""
        kept, num_correct = tuple(kept), min(self.num_correct_drafts, len(kept))
        ends_in_drafts = (
            num_correct < len(self.proposed) and kept[num_correct:] == self.proposed[num_correct : num_correct + 1]
        )
        if ends_in_drafts:  # a rejected draft is never what the target says itself: this one was correct, and the last
            num_correct += 1
        left = self.proposed[num_correct:]
        num_checked = 0 if ends_in_drafts or len(kept) == num_correct else 1
        return StepOutcome(kept[:num_correct], left[:num_checked], left[num_checked:], kept[num_correct:])


@dataclass(frozen=True, slots=True)
class VersionSpan(Record):
    """Consecutive verify steps of one request that one version drafted for."""

    version: int
    num_steps: int


@dataclass(frozen=True, slots=True)
class TraceRecord(Record):
    """One finished request that may be learnt from."""

    trace_id: str  # uuid4 hex; ingest is idempotent on it
    target: str  # slug
    domain: str
    version: int  # speculator version that served it, or most of it; 0 = none (control)
    tokens: tuple[int, ...]  # prompt, then every generated token
    prompt_len: int
    temperature: float
    finish_reason: str  # "stop" | "length"
    started_at: float
    decode_seconds: float  # engine time of the steps that this request took part in
    lookahead: int
    steps: tuple[StepRecord, ...]
    segment_id: str  # hidden states: key trace_id in that segment file
    first_state: int = 0  # first token position whose hidden states were kept (cached prefixes have none)
    version_spans: tuple[VersionSpan, ...] = ()  # all steps, where a swap reached the request; else ``version`` did all


@dataclass(frozen=True, slots=True)
class SegmentManifest(Record):
    """A sealed file of hidden states."""

    segment_id: str  # uuid4 hex
    target: str
    replica: str
    uri: str  # absolute path of the .safetensors file
    sha256: str
    size_bytes: int
    num_traces: int
    num_tokens: int
    aux_layer_ids: tuple[int, ...]  # 0-based layer outputs, low to high
    hidden_size: int
    dtype: str  # "float16" | "bfloat16" | "float32"
    sealed_at: float


@dataclass(frozen=True, slots=True)
class CountWindow(Record):
    """Sums over requests that finished in one short interval on one replica; divided only for display.

    ``x`` below is tokens committed after the first one, ``y`` decode seconds of one request: their second
    moments make the interval of a ratio of means computable after any amount of merging.
    """

    window_id: str  # uuid4 hex; ingest is idempotent on it
    target: str
    replica: str
    domain: str
    version: int  # 0 = control (no speculation), NO_DRAFT
    lookahead: int  # 0 = no drafts: the control, or (any other version) nobody drew them for it, like those of a pin
    batch_bucket: int  # 1, 2, 4, 8, ...: rounded-up mean number of requests per step
    started_at: float
    ended_at: float
    num_requests: int
    num_verify_steps: int
    num_proposed_drafts: int
    num_correct_drafts: int
    num_accept_tokens: int  # = sum of x
    decode_seconds: float  # = sum of y
    sum_xx: float
    sum_yy: float
    sum_xy: float
    num_plain_steps: int = 0  # of the verify steps, those that had no draft to verify


@dataclass(frozen=True, slots=True)
class VersionManifest(Record):
    """An immutable speculator version on disk."""

    target: str
    number: int  # set by the console; 0 in what the trainer hands over
    parent: int | None
    uri: str  # absolute path of the checkpoint directory (config.json + model.safetensors)
    sha256: str  # of model.safetensors
    size_bytes: int
    config: dict[str, Any]
    provenance: dict[str, Any]  # code version, library versions, seed, argv, range and number of traces


@dataclass(frozen=True, slots=True)
class DomainScore(Record):
    """Replay of held-out traces of one domain."""

    domain: str
    num_traces: int
    num_verify_steps: int
    num_correct_drafts: int
    num_accept_tokens: int
    num_proposed_drafts: int
    sum_xx: float  # per-trace second moments, x = accept tokens, y = verify steps
    sum_yy: float
    sum_xy: float
    # The rest has defaults, so that older reports are understood.
    proposed_by_position: tuple[int, ...] = ()  # drafts proposed at each place of the chain; () = not counted
    correct_by_position: tuple[int, ...] = ()
    # Cross moments with the live version's replay of the same traces (u, v = its x, y), on the candidate's side only.
    num_paired: int = 0  # traces that both sides replayed; 0 = not paired
    sum_xu: float = 0.0
    sum_xv: float = 0.0
    sum_yu: float = 0.0
    sum_yv: float = 0.0


@dataclass(frozen=True, slots=True)
class EvalReport(Record):
    """Candidate against live on the same held-out traces."""

    candidate: tuple[DomainScore, ...]
    live: tuple[DomainScore, ...]  # empty when there was no live version
    lookahead: int
    loss: float  # held-out, nats per token
    seconds: float
    live_uri: str = ""  # of the version that ``live`` is the replay of; "" = none, or not said


PIN_KINDS = ("lookahead", "speculation_off", "no_training")  # fields of DomainPin that may or may not be obeyed


@dataclass(frozen=True, slots=True)
class DomainPin(Record):
    """What a person has fixed for one domain; the defaults fix nothing."""

    domain: str  # as the console knows it: see DomainPins.rules
    lookahead: int | None = None  # drafts per verify step, instead of the engine's own choice
    speculation_off: bool = False
    no_training: bool = False  # counted, but no traces are kept

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those of PIN_KINDS that it fixes."""
        is_fixed = (self.lookahead is not None, self.speculation_off, self.no_training)
        return tuple(kind for kind, fixed in zip(PIN_KINDS, is_fixed, strict=True) if fixed)


@dataclass(frozen=True, slots=True)
class NameRule(Record):
    """One rule for what clients call a domain (speculators/domain_names.py)."""

    kind: str  # "exact" | "prefix" | "regex"
    pattern: str
    domain: str


@dataclass(frozen=True, slots=True)
class DomainPins(Record):
    """All pins of a target."""

    revision: int = 0  # counter of changes; 0 = nothing was ever pinned
    pins: tuple[DomainPin, ...] = ()
    rules: tuple[NameRule, ...] = ()  # in the order in which they are tried; () where nothing is pinned


@dataclass(frozen=True, slots=True)
class DesiredState(Record):
    """Intent of the console for one target."""

    target: str
    generation: int  # counter of intent; 0 = nothing desired yet
    version: int  # 0 = serve without speculation
    uri: str
    sha256: str
    lookahead: int
    control_share: float  # share of steps decoded without speculation, in blocks
    min_accept_length: float  # collapse threshold after a swap; 0 = no automatic revert
    pins: DomainPins | None = None  # None = the replica is too old to know of pins

    def to_json(self) -> dict[str, Any]:
        found = Record.to_json(self)
        if self.pins is None:
            del found["pins"]  # such a replica would refuse the field
        return found


@dataclass(frozen=True, slots=True)
class ObservedState(Record):
    """What one replica says that it runs."""

    replica: str
    target: str
    engine: str  # e.g. "aurora-embedded 0.1"
    url: str
    generation: int  # last generation acted on
    version: int
    sha256: str  # of the draft weights in memory, same digest as the checkpoint file's; "" = none
    state: str  # "starting" | "serving" | "swapping" | "swap_failed" | "reverted"
    detail: str  # why, when the state is swap_failed or reverted, or starting or swapping takes more than one try
    swap_ms: float
    probe_accept_length: float  # over the first steps after the swap; 0 = not measured yet
    probe_num_steps: int
    num_running: int
    num_dropped_traces: int
    spool_bytes: int
    reported_at: float
    # The rest has defaults, so that an older replica is understood. Counters run since the replica's start.
    capture_state: str = "working"  # "working" | "off" | "broken"; off = no traces are kept
    capture_detail: str = ""  # why, when it is off or broken
    num_traces: int = 0  # announced; those that the console refused later are among num_dropped_traces, too
    queue_bytes: int = 0  # captured, not yet written
    num_verify_steps: int = 0  # as our records count them
    num_accept_tokens: int = 0
    engine_num_verify_steps: int = 0  # as the engine's own metrics count them; 0 = it has none
    engine_num_accept_tokens: int = 0
    target_sha256: str = ""  # of the target's weights in memory, at the last swap; "" = not measured
    ranks: tuple[str, ...] = ()  # sha256 of the draft in memory on every tensor-parallel rank; () = one process
    pins_revision: int = -1  # of the pins that it runs; -1 = it knows of no pins
    pins_obeyed: tuple[str, ...] = ()  # those of PIN_KINDS that this engine can obey
    pins_detail: str = ""  # why not the others, or why a revision was not taken up
    policy_detail: str = ""  # what of lookahead and control_share this engine does not obey, and why; "" = nothing
    # Of one step with lookahead 0, 1, ..., at the batch size of late, as the engine measured it; () = it has not
    step_seconds: tuple[float, ...] = ()
    host: str = ""  # the machine's own name: behind loopback addresses it tells two servers apart; "" = not said

    def fitting(self) -> Self:
        """Its texts as the console takes them: none of them may keep a report from being heard."""
        return dataclasses.replace(
            self,
            sha256=_cut(self.sha256, LONGEST_SHA256),
            detail=_cut(self.detail, LONGEST_DETAIL),
            capture_detail=_cut(self.capture_detail, LONGEST_DETAIL),
            target_sha256=_cut(self.target_sha256, LONGEST_SHA256),
            host=_cut(self.host, LONGEST_HOST),
            pins_detail=_cut(self.pins_detail, LONGEST_DETAIL),
            policy_detail=_cut(self.policy_detail, LONGEST_DETAIL),
            ranks=tuple(_cut(line, LONGEST_SHA256) or "none" for line in self.ranks),
        )

    def core(self, why: str) -> Self:
        """What a swap has come to, without all that the console may find fault with besides; ``why`` goes with it."""
        found = type(self)(
            replica=self.replica, target=self.target, engine=self.engine, url=self.url, generation=self.generation,
            version=self.version, sha256=self.sha256, state=self.state, detail=self.detail, host=self.host,
            reported_at=self.reported_at, capture_state="broken", capture_detail=why,
            swap_ms=0.0, probe_accept_length=0.0, probe_num_steps=0, num_running=0, num_dropped_traces=0, spool_bytes=0,
        )  # fmt: skip
        return found.fitting()


@dataclass(frozen=True, slots=True)
class Announcement(Record):
    """What a replica says about its model when the console knows no target of its name."""

    replica: str
    target: str  # slug that it was started for
    engine: str
    url: str
    model_path: str  # directory or model id on its launch line
    draft_path: str
    aux_layer_ids: tuple[int, ...]  # that it captures
    config: dict[str, Any]  # the target's config.json
    reported_at: float


@dataclass(frozen=True, slots=True)
class TrainProgress(Record):
    """A trainer's heartbeat within a slice."""

    target: str
    run_id: str
    step: int  # optimiser steps since random weights
    num_tokens: int  # trained on, cumulative
    loss: float
    tokens_per_second: float
    phase: str  # "load" | "train" | "evaluate" | "save"
    reported_at: float


def _cut(text: str, longest: int) -> str:
    return text.replace("\0", "")[:longest]


@functools.cache
def _shape(cls: Hashable) -> tuple[dict[str, Any], frozenset[str]]:
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    required = {f.name for f in fields if f.default is dataclasses.MISSING}
    return {f.name: hints[f.name] for f in fields}, frozenset(required)


def _encode(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, tuple):
        return [_encode(v) for v in value]
    return value


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RecordError(f"{where}: expected a list, got {value!r:.80}")
        inner = typing.get_args(hint)[0]
        if inner is int and all(type(v) is int for v in value):
            return tuple(value)
        return tuple(_decode(inner, v, where) for v in value)
    if origin is types.UnionType:
        return None if value is None else _decode(typing.get_args(hint)[0], value, where)
    if origin is dict:
        hint = dict
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_json(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise RecordError(f"{where}: expected {hint.__name__}, got {value!r:.80}")
    return value
