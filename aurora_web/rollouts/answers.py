"""What the API answers about intent, replicas, alerts, approvals, economics, pins and comparisons.

The types of its document: each has exactly the fields of the payload that it names; tests compare real answers with
them. Times are Unix seconds.
"""

from __future__ import annotations

from typing import Annotated, Any

from ninja import Field, Schema

from aurora_web.metrics.answers import IntervalOut
from aurora_web.training.answers import LearntWindowOut
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


class RuleStateOut(Schema):
    """board.Ruled."""

    rule: str
    state: str = Field(description="what the rule said when it was last asked")
    detail: str
    threshold: float | None = Field(description="in force; null where the rule has none")
    unit: str
    is_default: bool
    is_enabled: bool
    asked_at: str | None = Field(description="ISO 8601; null = not yet")


class RuleSettingOut(Schema):
    rule: str
    threshold: float | None = Field(description="null = the default")
    is_enabled: bool


class NewChannelOut(Schema):
    id: int
    name: str
    kind: str
    secret: str = Field(description="with which a webhook's messages are signed; shown this once")


class DesiredPinOut(Schema):
    """DomainPin (speculators/records.py)."""

    domain: str
    lookahead: int | None = Field(description="drafts per verify step; null = the engine chooses")
    speculation_off: bool
    no_training: bool = Field(description="counted, but no traces are kept")


class NameRuleOut(Schema):
    """NameRule (speculators/records.py)."""

    kind: str = Field(description="exact, prefix or regex")
    pattern: str
    domain: str


class DesiredPinsOut(Schema):
    """DomainPins (speculators/records.py)."""

    revision: int = Field(description="counter of changes; 0 = nothing was ever pinned")
    pins: list[DesiredPinOut]
    rules: list[NameRuleOut] = Field(description="in the order in which they are tried; empty where nothing is pinned")


class DesiredOut(Schema):
    """DesiredState (speculators/records.py)."""

    target: str
    generation: int = Field(description="counter of intent; 0 = nothing desired yet")
    version: int = Field(description="0 = serve without speculation")
    uri: str
    sha256: str
    lookahead: int
    control_share: float = Field(description="of steps decoded without speculation, in blocks")
    min_accept_length: float = Field(description="collapse threshold after a swap; 0 = no automatic revert")
    pins: DesiredPinsOut | None = Field(None, description="left out for a replica that is too old to know of pins")


class PinRefusalOut(Schema):
    replica: str
    kinds: list[str] = Field(description="of what is pinned, in words")
    reason: str


class PinOut(DesiredPinOut):
    """obedience.pin_payload."""

    revision: int
    actor: str
    reason: str
    at: float
    num_alive: int = Field(description="replicas that report")
    obeying: list[str]
    lagging: list[str] = Field(description="replicas that do not have its revision yet")
    renamed: str = Field(description="what a rule for names keeps the domain as; empty = itself")
    stray: str = Field(description="which requests met it when it was made and do not now; empty = all do")
    refusing: list[PinRefusalOut]


class PinBoardOut(Schema):
    revision: int = Field(description="of the last change; 0 = none ever")
    pins: list[PinOut]


class PinUndoneOut(Schema):
    domain: str
    revision: int
    undoes: int = Field(description="the revision that was undone")
    words: str


class PinChangeOut(Schema):
    """traces.models.PinChange."""

    revision: int
    domain: str
    words: str = Field(description="what has been fixed since")
    undoes: int | None
    actor: str
    reason: str
    at: float
    is_newest: bool = Field(description="of its domain, so that it can be undone")


class CurvePointOut(Schema):
    """by_version.curve: counts of drafted steps."""

    at: float
    tokens: int = Field(description="accept tokens")
    steps: int
    requests: int


class CurveOut(Schema):
    """comparison.curves_payload: one version."""

    number: int
    status: str
    replayed: float | None = Field(description="accept length by replay; null without a report")
    points: list[CurvePointOut] = Field(description="oldest first")


class ComparisonCellOut(Schema):
    """comparison.Cell: one version in one domain."""

    accept_length: float | None
    num_units: int = Field(description="windows where it was measured, traces where it was replayed")
    change: IntervalOut | None = Field(description="over the first version; null in its own column")


class ComparisonRowOut(Schema):
    domain: str = Field(description="empty = all of them")
    cells: list[ComparisonCellOut] = Field(description="in the order of versions")


class PositionsOut(Schema):
    """Positions: drafts by place of the chain, the first of which is that of the first draft."""

    num_traces: int
    proposed: list[int]
    correct: list[int] = Field(description="and every draft before it, too")


class DifferenceOut(Schema):
    name: str
    values: list[str] = Field(description="in the order of versions")


class ComparisonOut(Schema):
    """comparison.comparison_payload; lists are in the order of versions."""

    versions: list[CurveOut]
    measured: list[ComparisonRowOut]
    replayed: list[ComparisonRowOut]
    positions: list[PositionsOut] = Field(description="of traces that each has served")
    replay_positions: list[PositionsOut] = Field(description="of the held-out traces of each report")
    learnt: list[LearntWindowOut | None] = Field(description="null where no slice made the version")
    config: list[DifferenceOut]
    data: list[DifferenceOut]
