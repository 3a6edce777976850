"""How long things are kept."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Field, Router

from aurora_web.accounts.auth import Allow, caller
from aurora_web.problems import Problem
from aurora_web.retention import services
from aurora_web.retention.answers import RetentionOut
from aurora_web.retention.services import RetentionError
from aurora_web.wire import BodySchema, Documented

router = Router(tags=["system"], auth=Allow("read"))
Answer = Annotated[dict[str, Any], Documented(RetentionOut)]


class RetentionIn(BodySchema):
    """Only what is named changes; null = as the environment says."""

    trace_days: float | None = None
    segment_hours: float | None = None
    figure_days: float | None = None
    num_versions: int | None = None
    is_confirmed: bool = Field(False, description="needed where a value becomes lower: what is older is deleted")
    reason: str = Field("", max_length=500)


@router.get("/retention", response=Answer)
def retention(request: HttpRequest) -> dict[str, Any]:
    """Every value: what holds, the environment's default, and what an admin chose."""
    return services.payload()


@router.patch("/retention", response=Answer, auth=Allow("administer"))
def change_retention(request: HttpRequest, body: RetentionIn) -> dict[str, Any]:
    """Change how long things are kept; 422 for a lower value without is_confirmed, since that deletes."""
    given = {name: value for name, value in body.dict(exclude_unset=True).items() if name in services.LIMITS}
    actor = caller(request).name
    try:
        services.change(given, actor, is_confirmed=body.is_confirmed, reason=body.reason)
    except RetentionError as error:
        raise Problem(422, str(error), field=error.field) from error
    return services.payload()
