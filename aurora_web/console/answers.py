"""What the API answers about a target's state and events, and about one version: the types of its document.

Each has exactly the fields of the payload that it names; tests compare real answers with them. Times are Unix seconds
where they are not ISO 8601.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from ninja import Field, Schema

from aurora_web.metrics.answers import IntervalOut
from aurora_web.registry.api import VersionOut
from aurora_web.rollouts.answers import AlertOut, DeploymentOut, FreezeOut, GateOut, ReplicaOut
from aurora_web.training.answers import LearntOut, TrainingPauseOut
from aurora_web.wire import Documented


class EventOut(Schema):
    """timeline.timeline."""

    at: float
    kind: str = Field(
        description="swap, canary, rollback, shift, alert, pin, candidate, training or person; of alerts ended, closed"
    )
    text: str
    version: int | None = Field(description="its number, where the event is about one")


class VersionStateOut(Schema):
    """snapshots.version_payload."""

    id: int
    number: int
    parent: int | None
    status: str
    sha256: str
    size_bytes: int
    accept_length: float | None = Field(description="by replay, every held-out trace alike")
    created_at: float
    is_pruned: bool = Field(description="its files were deleted")


class TrainingRunOut(Schema):
    """From the trainer's last report."""

    step: int
    num_tokens: int
    loss: float | None
    tokens_per_second: float
    phase: str
    reported_at: float | None
    slice_state: str | None = Field(description="of the last slice: queued, running, done, failed or lost")
    error: str


class ComparedOut(Schema):
    """canary_verdict.Compared: the canary against the others in one domain; ratios are canary over others."""

    domain: str = Field(description="empty = all of them")
    canary_requests: int
    other_requests: int
    canary_tokens_per_second: float | None
    other_tokens_per_second: float | None
    canary_accept_length: float | None
    other_accept_length: float | None
    speed: IntervalOut
    accept: IntervalOut
    speed_at_most: float | None = Field(description="upper end of an interval that is certain enough to end the canary")
    accept_at_most: float | None
    seems_worse: bool = Field(description="by the 95 % intervals")
    is_worse: bool = Field(description="certainly")


class CanaryVerdictOut(Schema):
    """canary_verdict.CanaryVerdict."""

    action: str = Field(description="wait, promote or roll back")
    reasons: list[str]
    total: ComparedOut
    domains: list[ComparedOut]
    one_in: int = Field(description="comparisons, of which chance shows one to be worse where nothing is")


class StepOut(Schema):
    """phases.Step: one step on the way to the next version."""

    name: str = Field(description="connect, collect, train, evaluate, canary or live")
    text: str
    is_current: bool
    is_done: bool
    seconds_left: float | None = Field(description="an estimate; null = cannot be known")
    note: str = Field(description="in its place: what is waited for")


class StateOut(Schema):
    """snapshots.target_snapshot, and what a canary has measured."""

    slug: str
    at: float
    versions: list[VersionStateOut] = Field(description="the newest 30")
    gate: list[GateOut] = Field(description="verdicts, those of the newest versions first")
    replicas: list[ReplicaOut]
    deployment: DeploymentOut | None = Field(description="what is wanted; null = nothing yet")
    alerts: list[AlertOut] = Field(description="that are firing")
    run: TrainingRunOut | None
    training: TrainingPauseOut
    freeze: FreezeOut
    canary: CanaryVerdictOut | None
    steps: list[StepOut]


class GateRowOut(Schema):
    """gate_table.GateRow: one metric of one domain."""

    domain: str = Field(description="empty = all of them")
    share: float | None = Field(description="of the latest requests when it was judged")
    num_traces: int
    metric: str
    candidate: float | None
    live: float | None
    change: float | None = Field(description="relative")
    low: float | None = Field(description="of the change, 95 %")
    high: float | None
    word: str = Field(description="Better, Pass, Worse, Too little, Not judged or No data")


class GateDetailOut(Schema):
    """models.GateDecision with its table."""

    passed: bool
    reasons: list[str]
    policy: dict[str, Any] = Field(description="what it was judged by")
    accept_length: float | None = Field(description="by replay, all domains, by their shares of the traffic")
    gain: float | None = Field(description="accept_length over live's - 1")
    gain_low: float | None
    gain_high: float | None
    predicted_speedup: float | None = Field(description="an estimate, over no speculation")
    live_predicted_speedup: float | None
    at: datetime
    live_number: int | None = Field(description="what was live then: 0 = nothing, null = not recorded")
    rows: list[GateRowOut]


class ServedOut(Schema):
    """in_service.Period, and what was measured in it."""

    status: str = Field(description="canary or live")
    start: datetime
    end: datetime | None = Field(description="null = still")
    began: str = Field(description="why, in words")
    ended: str
    actor: str
    num_requests: int
    accept_length: float | None


class FileOut(Schema):
    name: str
    size_bytes: int
    sha256: str = Field(description="empty = too large to compute here")


class TransitionOut(Schema):
    """registry.models.Transition."""

    old: str = Field(description="empty = it was made")
    new: str
    reason: str
    actor: str
    at: datetime


class ApprovalOut(Schema):
    """rollouts.models.Approval."""

    is_approved: bool
    actor: str
    reason: str
    at: datetime


class VersionDetail(Schema):
    version: VersionOut
    gate: Annotated[dict[str, Any] | None, Documented(GateDetailOut | None)] = Field(
        description="the verdict with its table, domain x metric; null before it is judged"
    )
    served: Annotated[list[dict[str, Any]], Documented(list[ServedOut])] = Field(
        description="periods in service, newest first, with what was measured in each"
    )
    files: Annotated[list[dict[str, Any]], Documented(list[FileOut])] = Field(
        description="none where they are not on this machine"
    )
    learnt: Annotated[dict[str, Any] | None, Documented(LearntOut | None)] = Field(
        description="new traces since the version before; null where no slice made it"
    )
    children: list[int]
    transitions: Annotated[list[dict[str, Any]], Documented(list[TransitionOut])] = Field(description="newest first")
    approvals: Annotated[list[dict[str, Any]], Documented(list[ApprovalOut])]
