"""What the API answers about training: the types of its document.

Each has exactly the fields of the payload that it names; tests compare real answers with them.
"""

from __future__ import annotations

from datetime import datetime

from ninja import Field, Schema


class TrainingPauseOut(Schema):
    """control.control_payload."""

    target: str
    is_paused: bool
    by: str | None
    reason: str
    at: float = Field(description="Unix seconds when it was paused; now, where it is not")


class QueuedSliceOut(Schema):
    target: str
    slice: str = Field(description="id of the training slice")
    state: str


class LearntWindowOut(Schema):
    """learnt.Learnt without its slices."""

    num_slices: int
    num_traces: int = Field(description="new ones that are still kept")
    first_at: datetime | None = Field(description="when the first of them was served")
    last_at: datetime | None
    domains: dict[str, int] = Field(description="how many of them are of each")


class LearntOut(LearntWindowOut):
    """learnt.Learnt."""

    slices: list[str] = Field(description="ids, for GET /traces?slices=")
