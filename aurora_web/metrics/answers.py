"""What the API answers about figures, domains and slices: the types of its document.

Each has exactly the fields of the payload that it names; tests compare real answers with them. Times are Unix seconds,
intervals those of 95 %.
"""

from __future__ import annotations

from ninja import Field, Schema


class IntervalOut(Schema):
    """ratios.Interval."""

    value: float | None
    low: float | None
    high: float | None
    reason: str


class CountsOut(Schema):
    """Sums over requests (rollups.SUMMED); of the control over blocks of steps."""

    num_requests: int
    num_verify_steps: int
    num_plain_steps: int = Field(description="verify steps without drafts")
    num_proposed_drafts: int
    num_correct_drafts: int
    num_accept_tokens: int
    decode_seconds: float
    sum_xx: float = Field(description="of squares: x = tokens of a request after its first")
    sum_yy: float = Field(description="of squares: y = decode seconds of a request")
    sum_xy: float


class FiguresOut(Schema):
    """services.figures: ratios of sums, null where there is nothing to divide."""

    counts: CountsOut = Field(description="of every request outside the control")
    control_counts: CountsOut
    accept_length: float | None = Field(description="accept tokens of a verify step that had drafts")
    plain_share: float | None = Field(description="of the verify steps, those without drafts")
    accept_rate: float | None = Field(description="correct drafts of those proposed")
    tokens_per_second: float | None = Field(description="with speculation")
    control_tokens_per_second: float | None
    speedup: IntervalOut = Field(description="tokens/s with speculation over the control's, of like domain and batch")


class BatchFiguresOut(FiguresOut):
    batch_bucket: int = Field(description="1, 2, 4, 8, ...: how many requests shared a step")


class DomainFiguresOut(FiguresOut):
    domain: str = Field(description="empty = all of them")
    batch_buckets: list[BatchFiguresOut]


class MetricsOut(Schema):
    """services.summary."""

    target: str
    since: float
    until: float
    total: DomainFiguresOut
    domains: list[DomainFiguresOut]


class SeriesPointOut(Schema):
    """services.series: one domain in one window of ten seconds; counts, to be added up before they are divided."""

    at: float = Field(description="start of the window")
    domain: str
    version: int = Field(description="the newest that served in it; 0 = none")
    num_requests: int = Field(description="without blocks of the control")
    steps: int = Field(description="verify steps with drafts")
    drafted_tokens: int = Field(description="accept tokens of these steps")
    tokens: int = Field(description="accept tokens with speculation")
    seconds: float = Field(description="in which they were decoded, summed over requests")
    control_tokens: int
    control_seconds: float
    accept_length: float | None = Field(description="drafted_tokens over steps")


class CellOut(Schema):
    """domains.Cell."""

    version: int = Field(description="0 = all of them")
    value: float | None = Field(description="accept length")
    low: float | None
    high: float | None
    num_verify_steps: int


class DomainLineOut(Schema):
    """domains.DomainLine."""

    domain: str
    num_requests: int
    share: float = Field(description="of all requests")
    total: CellOut
    cells: list[CellOut] = Field(description="one for each of the answer's versions")


class TrendPointOut(Schema):
    """domains.trend: one domain in one window."""

    at: int = Field(description="start of the window")
    domain: str
    num_requests: int
    share: float | None = Field(description="of the window's requests")
    num_accept_tokens: int
    num_verify_steps: int
    accept_length: float | None


class DriftOut(Schema):
    """domains.Drift."""

    at: int = Field(description="start of the later of two adjacent windows")
    domain: str
    what: str = Field(description="share or accept length")
    version: int | None = Field(description="of an accept length")
    before: float
    after: float
    errors: float = Field(description="by how many standard errors it moved")


class DomainsOut(Schema):
    """domains_api.domain_figures."""

    target: str
    range: str = Field(description="1h, 24h or 7d")
    since: float
    until: float
    window_seconds: int
    versions: list[int] = Field(description="the newest that were measured")
    domains: list[DomainLineOut] = Field(description="most requests first")
    trend: list[TrendPointOut] = Field(description="oldest first")
    drift: list[DriftOut] = Field(description="newest first")


class SliceOut(Schema):
    """slices.Slice."""

    domain: str
    context: str = Field(description="tokens before the step, prompt included: 64 to 255")
    position: str = Field(description="generated tokens before the step: 16 to 63")
    num_traces: int
    num_verify_steps: int
    accept_length: float
    low: float | None
    high: float | None
    trace_ids: list[str] = Field(description="of those that are worst there")


class SlicesOut(Schema):
    num_traces: int = Field(description="that were looked at")
    sample: int = Field(description="how many are looked at, at most: the newest")
    slices: list[SliceOut]
