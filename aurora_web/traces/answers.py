"""What the API answers about traces: the types of its document.

Each has exactly the fields of the payload that it names; tests compare real answers with them. Times are Unix seconds.
"""

from __future__ import annotations

from ninja import Field, Schema

NOT_READ = "null for who may not read text"
ASKED = "only where it was asked for"


class TraceLineOut(Schema):
    """payloads.summary."""

    trace_id: str
    started_at: float
    domain: str
    version: int = Field(description="that served it, or most of it; 0 = the control")
    prompt_len: int = Field(description="tokens")
    num_generated: int = Field(description="tokens")
    num_verify_steps: int
    num_proposed_drafts: int
    num_correct_drafts: int
    accept_length: float | None = Field(description="of the steps with drafts; null without any")
    lookahead: int
    temperature: float
    finish_reason: str = Field(description="stop or length")
    decode_seconds: float
    state: str = Field(description="trained, held out, waiting, leased or lost")
    segment_id: str


class TracePage(Schema):
    items: list[TraceLineOut]
    next: str | None = Field(description="pass as cursor to get older traces; null on the last page")
    count: int | None = Field(description="at most count_limit + 1; null = counting takes too long")
    count_limit: int


class VersionSpanOut(Schema):
    version: int
    num_steps: int = Field(description="verify steps in a row")


class StepPiecesOut(Schema):
    """pieces.of_steps: the text that each token of a step adds."""

    correct: list[str]
    rejected: list[str]
    dropped: list[str]
    bonus: list[str]


class TraceStepOut(Schema):
    """One verify step; token ids."""

    number: int = Field(description="from 1")
    position: int = Field(description="of its first committed token, counted from the first generated one")
    num_proposed: int
    num_correct: int
    num_rejected: int
    num_dropped: int = Field(description="proposed after the rejected one, never checked")
    num_bonus: int
    correct: list[int] | None = Field(description=NOT_READ)
    rejected: list[int] | None = Field(description=NOT_READ)
    dropped: list[int] | None = Field(description=NOT_READ)
    bonus: list[int] | None = Field(description=NOT_READ)
    pieces: StepPiecesOut | None = Field(None, description=f"{ASKED}; {NOT_READ}")


class TracePiecesOut(Schema):
    """payloads.with_pieces: the text that each token adds outside the steps."""

    prompt: list[str] | None = Field(description=NOT_READ)
    first: list[str] | None = Field(description=NOT_READ)
    rest: list[str] | None = Field(description=NOT_READ)


class TraceOut(TraceLineOut):
    """payloads.whole."""

    version_spans: list[VersionSpanOut] = Field(description="empty where one version made all steps")
    is_redacted: bool = Field(description="token ids and text are left out")
    prompt_text: str | None
    generated_text: str | None
    prompt: list[int] | None = Field(description=f"token ids; {NOT_READ}")
    first: list[int] | None = Field(description="the first generated token: the prompt's own pass made it")
    steps: list[TraceStepOut]
    rest: list[int] | None = Field(description="generated tokens that no recorded step accounts for")
    num_rest: int
    no_text: str = Field(description="why the tokenizer cannot be read; empty = it can, or nobody asked it")
    pieces: TracePiecesOut | None = Field(None, description=ASKED)


class DeletedTraceOut(Schema):
    trace_id: str
    was_trained: bool
    what_stays: str = Field(description="what a deletion cannot undo, in sentences")
