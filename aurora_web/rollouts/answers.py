"""What the API answers about intent, replicas, alerts, approvals and economics: the types of its document.

Each has exactly the fields of the payload that it names; a test compares real answers with them. Times are Unix
seconds.
"""

from __future__ import annotations

from typing import Annotated, Any

from ninja import Field, Schema

from aurora_web.metrics.answers import IntervalOut
from aurora_web.wire import Documented


class DeploymentOut(Schema):
    """intent.deployment_payload."""

    target: str
    generation: int
    version: int = Field(description="wanted in service; 0 = no speculation")
    previous: int | None
    canary: int | None
    is_held: bool = Field(description="after a rollback: nothing goes live by itself")
    at: float


class RejectedOut(Schema):
    id: int
    status: str


class HeldOut(Schema):
    target: str
    is_held: bool


class DomainVerdictOut(Schema):
    """gate.DomainVerdict: accept lengths by replay of the same held-out traces. Old verdicts end with is_worse."""

    domain: str
    num_traces: int
    accept_length: float | None
    live_accept_length: float | None
    gain: float | None = Field(description="accept_length over live_accept_length - 1")
    is_worse: bool = Field(description="beyond the policy's tolerance, and with enough traces to say so")
    gain_low: float | None = Field(None, description="95 %")
    gain_high: float | None = None
    accept_rate: float | None = Field(None, description="correct drafts of those proposed")
    live_accept_rate: float | None = None
    share: float | None = Field(None, description="of the latest requests, by which it counts; null = by its traces")


class GateOut(Schema):
    """services.gate_payload."""

    number: int
    passed: bool
    reasons: list[str]
    domains: Annotated[list[dict[str, Any]], Documented(list[DomainVerdictOut])]
    gain: float | None
    at: float


class FreezeOut(Schema):
    """freeze.freeze_payload."""

    target: str
    is_frozen: bool
    by: str | None
    reason: str
    at: float = Field(description="when it was frozen; now, where it is not")


class ReplicaOut(Schema):
    """fleet.standing_payload."""

    name: str
    engine: str
    url: str
    host: str
    is_alive: bool
    is_canary: bool
    state: str
    detail: str
    progress: str = Field(description="down, starting, catching up, behind or up to date")
    generation: int
    desired_generation: int
    version: int
    desired_version: int
    sha256: str
    ranks: list[str] = Field(description="sha256 of the draft on every tensor-parallel rank")
    is_proven: bool | None = Field(description="every rank holds the file's checksum; null where no draft runs")
    target_sha256: str
    is_target_untouched: bool | None
    swap_ms: float
    probe_accept_length: float
    probe_num_steps: int
    num_running: int
    capture_state: str
    capture_detail: str
    num_traces: int
    traces_per_second: float | None
    num_dropped_traces: int
    queue_bytes: int
    spool_bytes: int
    accept_length: float | None
    engine_accept_length: float | None
    compared_steps: int
    pins_revision: int
    pins_obeyed: list[str]
    pins_detail: str
    policy_detail: str
    seen_at: float


class FleetReplicaOut(ReplicaOut):
    target: str


class AlertOut(Schema):
    """alerts.alert_payload."""

    id: int
    target: str = Field(description="empty = the console itself")
    rule: str
    replica: str
    state: str
    detail: str
    since: float
    fired_at: float | None
    ended_at: float | None
    no_data_since: float | None = Field(description="stays open without data, or was closed so; null = it has data")
    no_data_why: str


class ArrivalOut(Schema):
    replica: str
    seconds: float | None = Field(description="from the intent until it said that it runs it; null = not yet")
    swap_ms: float | None
    version: int | None


class SwapOut(Schema):
    """swaps.swap_payload."""

    generation: int
    kind: str
    from_: int = Field(alias="from")
    to: int
    canary: int | None
    actor: str
    at: float
    expected: list[str] = Field(description="replicas that were alive when it was wanted")
    waiting: list[str]
    completed_seconds: float | None
    replicas: list[ArrivalOut]


class WaitingOut(Schema):
    """approvals.waiting_payload."""

    id: int
    target: str
    number: int
    status: str
    since: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    reasons: list[str]
    domains: Annotated[list[dict[str, Any]], Documented(list[DomainVerdictOut])]
    worst_domain: Annotated[dict[str, Any] | None, Documented(DomainVerdictOut | None)] = Field(
        description="that with the least gain; null = nothing is compared"
    )
    judged_against: int | None
    live: int
    stale: str = Field(description="why it must be looked at again; empty = it need not")
    requested_by: str = Field(description="who asked for the version; empty = nobody did")
    refusal: str = Field(description="why the caller may not approve it; empty = the caller may")
    path: str


class SavingOut(Schema):
    domain: str
    num_requests: int
    num_tokens: int
    spent_seconds: float
    without_seconds: float | None
    saved: IntervalOut
    covered: float = Field(description="share of the tokens that could be compared")


class TrainingOut(Schema):
    seconds: float
    num_slices: int
    num_failed: int


class CaptureOut(Schema):
    num_segments: int
    num_traces: int
    num_bytes: int
    engine_seconds: float


class CostsOut(Schema):
    engine_hour: float
    trainer_hour: float
    capture_percent: float
    currency: str


class AdviceOut(Schema):
    action: str
    reasons: list[str]


class EconomicsOut(Schema):
    """economics_api.economics_payload."""

    since: float
    until: float
    total: SavingOut
    domains: list[SavingOut]
    training: TrainingOut
    capture: CaptureOut
    costs: CostsOut
    saved_cost: IntervalOut
    training_cost: float
    capture_cost: float
    net_cost: IntervalOut
    break_even_seconds: float | None
    advice: AdviceOut
