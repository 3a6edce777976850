"""What the API answers about how long things are kept: the types of its document."""

from __future__ import annotations

from ninja import Field, Schema


class LimitOut(Schema):
    """services.Limit, and what holds."""

    value: float = Field(description="that holds, in unit")
    default: float = Field(description="as the environment says")
    chosen: float | None = Field(description="by an admin; null = the default holds")
    unit: str
    what: str
    variable: str = Field(description="of the environment")


class RetentionOut(Schema):
    """services.payload."""

    trace_days: LimitOut
    segment_hours: LimitOut
    figure_days: LimitOut
    num_versions: LimitOut
