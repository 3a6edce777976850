"""Trace payloads to rows of COPY and back. Checked here by hand: the record classes cost 5x the time per step."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any
from uuid import UUID

import orjson

from speculators.records import RecordError, StepRecord, TraceRecord, VersionSpan

INT32 = 2**31 - 1
HELD_OUT_EVERY = 10
COLUMNS = (
    "trace_id",
    "started_at",
    "received_at",
    "target_id",
    "segment_id",
    "domain",
    "version",
    "tokens",
    "prompt_len",
    "first_state",
    "lookahead",
    "temperature",
    "finish_reason",
    "decode_seconds",
    "steps",
    "num_verify_steps",
    "num_plain_steps",
    "num_proposed_drafts",
    "num_correct_drafts",
    "version_spans",
    "is_held_out",
)
_REQUIRED = frozenset(TraceRecord.__dataclass_fields__) - {"first_state", "version_spans"}
_KNOWN = frozenset(TraceRecord.__dataclass_fields__)
_STEP = frozenset(StepRecord.__dataclass_fields__)
_SPAN = frozenset(VersionSpan.__dataclass_fields__)
Pair = tuple[int, list[int]]  # (num_correct_drafts, proposed) of a step
_MAX_TIME = 253402300799.0  # the last second that Postgres and Python agree on


def is_held_out(trace_id: str, every: int = HELD_OUT_EVERY) -> bool:
    """Whether a trace is kept for evaluation for ever: a hash of its id, so that nobody can choose."""
    return int(trace_id[:8], 16) % every == 0


def pack_steps(pairs: Sequence[Pair]) -> bytes:
    """Steps as zlib'd JSON ``[[num_correct_drafts, [proposed]], ...]``."""
    return zlib.compress(orjson.dumps(pairs), 1)


def unpack_steps(packed: bytes | memoryview) -> tuple[StepRecord, ...]:
    """The inverse of pack_steps."""
    pairs = unpack_pairs(packed)
    return tuple(StepRecord(proposed=tuple(proposed), num_correct_drafts=correct) for correct, proposed in pairs)


def unpack_pairs(packed: bytes | memoryview) -> list[Pair]:
    """Steps as (num_correct_drafts, proposed), for sums over many traces."""
    pairs: list[Pair] = orjson.loads(zlib.decompress(bytes(packed)))
    return pairs


def identifier(value: Any, where: str) -> UUID:
    """A uuid from its 32 hex digits. Raises RecordError."""
    if isinstance(value, str) and len(value) == 32:
        try:
            return UUID(hex=value)
        except ValueError:
            pass
    raise RecordError(f"{where}: expected 32 hex digits, got {value!r:.80}")


def moment(value: Any, where: str) -> datetime:
    """A UTC time from Unix seconds. Raises RecordError."""
    if type(value) not in (int, float) or not 0 <= value <= _MAX_TIME:
        raise RecordError(f"{where}: expected Unix seconds, got {value!r:.80}")
    return datetime.fromtimestamp(value, UTC)


def text(value: Any, where: str, limit: int) -> str:
    """A string that Postgres can keep. Raises RecordError."""
    if not isinstance(value, str) or not 0 < len(value) <= limit or "\0" in value:
        raise RecordError(f"{where}: expected 1 to {limit} characters without NUL, got {value!r:.80}")
    return value


def finite(value: Any, where: str) -> float:
    """A finite number that is not negative. Raises RecordError."""
    if type(value) not in (int, float) or not 0 <= value < 1e300:
        raise RecordError(f"{where}: expected a number >= 0, got {value!r:.80}")
    return float(value)


def count(value: Any, where: str, limit: int = INT32) -> int:
    """A whole number from 0 to ``limit``. Raises RecordError."""
    if type(value) is not int or not 0 <= value <= limit:
        raise RecordError(f"{where}: expected a whole number from 0 to {limit}, got {value!r:.80}")
    return value


def token_ids(value: Any, where: str, vocab_size: int) -> list[int]:
    """A list of ids of the target's vocabulary. Raises RecordError."""
    if not isinstance(value, list):
        raise RecordError(f"{where}: expected a list, got {value!r:.80}")
    if value:
        if set(map(type, value)) != {int}:
            raise RecordError(f"{where}: expected whole numbers only, got {value!r:.80}")
        if min(value) < 0 or max(value) >= vocab_size:
            raise RecordError(f"{where}: a token id is outside the vocabulary of {vocab_size}")
    return value


def row(
    raw: Any,
    index: int,
    target_pk: int,
    slug: str,
    vocab_size: int,
    received_at: datetime,
    domain_of: Callable[[str], str] = str,
    held_out_every: Callable[[str], int] = lambda domain: HELD_OUT_EVERY,
) -> tuple[Any, ...]:
    """One trace as a tuple in the order of COLUMNS. Raises RecordError naming the field."""
    where = f"traces[{index}]"
    _check_words(raw, where, slug)
    trace_id = identifier(raw["trace_id"], f"{where}.trace_id")
    tokens = token_ids(raw["tokens"], f"{where}.tokens", vocab_size)
    pairs = _steps(raw["steps"], f"{where}.steps", vocab_size)
    domain = domain_of(text(raw["domain"], f"{where}.domain", 100))
    return (
        trace_id,
        moment(raw["started_at"], f"{where}.started_at"),
        received_at,
        target_pk,
        identifier(raw["segment_id"], f"{where}.segment_id"),
        domain,
        count(raw["version"], f"{where}.version"),
        "{" + str(tokens)[1:-1] + "}",
        count(raw["prompt_len"], f"{where}.prompt_len", len(tokens)),
        count(raw.get("first_state", 0), f"{where}.first_state", len(tokens)),
        count(raw["lookahead"], f"{where}.lookahead", 1024),
        finite(raw["temperature"], f"{where}.temperature"),
        raw["finish_reason"],
        finite(raw["decode_seconds"], f"{where}.decode_seconds"),
        pack_steps(pairs),
        *step_sums(pairs),
        _spans(raw.get("version_spans", []), f"{where}.version_spans", len(pairs)),
        is_held_out(trace_id.hex, held_out_every(domain)),
    )


def _check_words(raw: Any, where: str, slug: str) -> None:
    """The names of the fields, and those that have few values."""
    if not isinstance(raw, dict):
        raise RecordError(f"{where}: expected an object, got {type(raw).__name__}")
    if raw.keys() - _KNOWN or _REQUIRED - raw.keys():
        unknown, missing = sorted(raw.keys() - _KNOWN), sorted(_REQUIRED - raw.keys())
        raise RecordError(f"{where}: unknown fields {unknown}, missing fields {missing}")
    if raw["target"] != slug:
        raise RecordError(f"{where}.target: expected {slug!r} as in the segment, got {raw['target']!r:.80}")
    if raw["finish_reason"] not in ("stop", "length"):
        raise RecordError(f"{where}.finish_reason: expected 'stop' or 'length', got {raw['finish_reason']!r:.80}")


def _spans(spans: Any, where: str, num_steps: int) -> str | None:
    """``[[version, num_steps], ...]`` as JSON; None for a trace of one version."""
    if not isinstance(spans, list) or any(not isinstance(span, dict) or span.keys() != _SPAN for span in spans):
        raise RecordError(f"{where}: expected a list of objects with the fields {sorted(_SPAN)}, got {spans!r:.80}")
    pairs = [(count(span["version"], where), count(span["num_steps"], where, num_steps)) for span in spans]
    if pairs and sum(num for _, num in pairs) != num_steps:
        raise RecordError(f"{where}: expected {num_steps} steps, as there are in steps, got {spans!r:.80}")
    return orjson.dumps(pairs).decode() if pairs else None


def step_sums(pairs: Sequence[Pair]) -> tuple[int, int, int, int]:
    """(num_verify_steps, num_plain_steps, num_proposed_drafts, num_correct_drafts) of a trace's steps."""
    lookaheads = [len(proposed) for _, proposed in pairs]
    return len(pairs), lookaheads.count(0), sum(lookaheads), sum(correct for correct, _ in pairs)


def _steps(steps: Any, where: str, vocab_size: int) -> list[Pair]:
    if not isinstance(steps, list):
        raise RecordError(f"{where}: expected a list, got {steps!r:.80}")
    try:
        pairs = [(step["num_correct_drafts"], step["proposed"]) for step in steps]
    except (TypeError, KeyError):
        pairs = []
    if len(pairs) != len(steps) or not _are_right(steps, pairs, vocab_size):
        _name_what_is_wrong(steps, where, vocab_size)
    return pairs


def _are_right(steps: list[Any], pairs: list[Pair], vocab_size: int) -> bool:
    """All steps at once: one by one they cost a third of the ingest."""
    if any(map(len(_STEP).__ne__, map(len, steps))) or {type(proposed) for _, proposed in pairs} - {list}:
        return False
    tokens = list(chain.from_iterable(proposed for _, proposed in pairs))
    if {type(correct) for correct, _ in pairs} - {int} or set(map(type, tokens)) - {int}:
        return False
    return (not tokens or (min(tokens) >= 0 and max(tokens) < vocab_size)) and all(
        0 <= correct <= len(proposed) for correct, proposed in pairs
    )


def _name_what_is_wrong(steps: list[Any], where: str, vocab_size: int) -> None:
    for index, step in enumerate(steps):
        if not isinstance(step, dict) or step.keys() != _STEP:
            raise RecordError(f"{where}[{index}]: expected an object with the fields {sorted(_STEP)}")
        proposed = token_ids(step["proposed"], f"{where}[{index}].proposed", vocab_size)
        count(step["num_correct_drafts"], f"{where}[{index}].num_correct_drafts", len(proposed))
    raise AssertionError(f"{where}: a wrong step was not found")
