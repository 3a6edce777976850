"""Traces as JSON, with text or without: what the API answers and what an export holds."""

from __future__ import annotations

from typing import Any

import orjson

from aurora_web.registry.models import Target
from aurora_web.traces.codec import unpack_steps
from aurora_web.traces.marks import Marked, MarkedStep, mark
from aurora_web.traces.models import Trace
from aurora_web.traces.pieces import of_steps, whole_text
from aurora_web.traces.search import TraceFilter, search
from aurora_web.traces.text import TokenReader, reader_for

MAX_EXPORT = 5000
CHUNK = 500


def summary(trace: Trace) -> dict[str, Any]:
    """One line of a search: lengths and outcomes, never a token. Needs ``num_tokens`` (search.light)."""
    num_tokens: int = trace.num_tokens  # type: ignore[attr-defined]  # set by search.light
    return {
        "trace_id": trace.trace_id.hex,
        "started_at": trace.started_at.timestamp(),
        "domain": trace.domain,
        "version": trace.version,
        "prompt_len": trace.prompt_len,
        "num_generated": num_tokens - trace.prompt_len,
        "num_verify_steps": trace.num_verify_steps,
        "num_proposed_drafts": trace.num_proposed_drafts,
        "num_correct_drafts": trace.num_correct_drafts,
        "accept_length": trace.accept_length,
        "lookahead": trace.lookahead,
        "temperature": trace.temperature,
        "finish_reason": trace.finish_reason,
        "decode_seconds": trace.decode_seconds,
        "state": trace.state,
        "segment_id": trace.segment_id.hex,
    }


def whole(trace: Trace, may_read_text: bool, reader: TokenReader | None = None) -> dict[str, Any]:
    """One trace with its steps; without ``may_read_text`` every list of token ids is None, its length stays.

    Its text is None then, too, and where no ``reader`` of the target's tokens is given.
    """
    trace.num_tokens = len(trace.tokens)  # type: ignore[attr-defined]
    marked = marked_trace(trace)
    readable = reader if may_read_text else None
    texts = whole_text(trace.tokens, trace.prompt_len, readable.text) if readable else (None, None)
    return {
        **summary(trace),
        "version_spans": [{"version": version, "num_steps": num} for version, num in trace.version_spans or ()],
        "is_redacted": not may_read_text,
        "prompt_text": texts[0],
        "generated_text": texts[1],
        "prompt": list(marked.prompt) if may_read_text else None,
        "first": list(marked.first) if may_read_text else None,
        "steps": [_step(step, may_read_text) for step in marked.steps],
        "rest": list(marked.rest) if may_read_text else None,
        "num_rest": len(marked.rest),
    }


def with_pieces(payload: dict[str, Any], trace: Trace, reader: TokenReader | None) -> dict[str, Any]:
    """``payload``, of ``whole``, with the text that each token adds, beside its ids; None where nobody may read it."""
    marked = marked_trace(trace)
    steps: list[Any] = [None] * len(marked.steps)
    pieces: dict[str, Any] = dict.fromkeys(("prompt", "first", "rest"))
    if reader is not None and not payload["is_redacted"]:
        steps = of_steps(marked, reader.pieces)
        last = trace.tokens[-len(marked.rest) - 1 : -len(marked.rest)] if marked.rest else ()
        pieces = {
            "prompt": reader.pieces(marked.prompt),
            "first": reader.pieces(marked.first, marked.prompt[-1:]),
            "rest": reader.pieces(marked.rest, last),
        }
    listed = [step | {"pieces": found} for step, found in zip(payload["steps"], steps, strict=True)]
    return payload | {"steps": listed, "pieces": pieces}


def marked_trace(trace: Trace) -> Marked:
    """The tokens of a stored trace by what made them."""
    return mark(trace.tokens, trace.prompt_len, unpack_steps(trace.steps))


def _step(step: MarkedStep, may_read_text: bool) -> dict[str, Any]:
    counts = {
        "number": step.number,
        "position": step.position,
        "num_proposed": step.num_proposed,
        "num_correct": len(step.correct),
        "num_rejected": len(step.rejected),
        "num_dropped": len(step.dropped),
        "num_bonus": len(step.bonus),
    }
    ids = {name: list(getattr(step, name)) for name in ("correct", "rejected", "dropped", "bonus")}
    return counts | {name: found if may_read_text else None for name, found in ids.items()}


def export(target: Target, wanted: TraceFilter, may_read_text: bool, cursor: str, limit: int) -> tuple[bytes, str, int]:
    """JSON lines of at most ``limit`` traces, newest first; (the lines, cursor of the rest or "", how many)."""
    reader, _ = reader_for(target, may_read_text)
    lines: list[bytes] = []
    while len(lines) < limit:
        found = search(target, wanted, cursor, min(CHUNK, limit - len(lines)))
        keys = {trace.trace_id: trace.started_at for trace in found.traces}
        stored = Trace.objects.filter(trace_id__in=keys, started_at__in=list(keys.values()))
        by_id = {trace.trace_id: trace for trace in stored}
        lines += [orjson.dumps(whole(by_id[i], may_read_text, reader)) + b"\n" for i in keys if i in by_id]
        cursor = found.next
        if not cursor:
            break
    return b"".join(lines), cursor, len(lines)
