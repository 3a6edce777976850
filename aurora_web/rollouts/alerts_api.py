"""Alerting in the API: alerts of every target, rules, silences, channels and their deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from ninja import Field, Router, Schema

from aurora_web.accounts.auth import Allow, caller
from aurora_web.problems import Problem
from aurora_web.registry.models import Target
from aurora_web.registry.services import find_target
from aurora_web.rollouts import board, watching
from aurora_web.rollouts.alerts import alert_payload
from aurora_web.rollouts.answers import AlertOut, NewChannelOut, RuleSettingOut, RuleStateOut
from aurora_web.rollouts.models import AlertState, Channel, Delivery, Silence
from aurora_web.wire import BodySchema, Documented, ReasonText

router = Router(tags=["alerts"], auth=Allow("read"))
CONSOLE = "console"  # in place of a target's slug: the console's own rules


class AlertPage(Schema):
    items: Annotated[list[dict[str, Any]], Documented(list[AlertOut])]
    next: str | None = Field(description="pass as cursor to get older alerts; null on the last page")


class AlertRuleIn(BodySchema):
    threshold: float | None = Field(None, description="in the rule's unit; null = the default")
    is_enabled: bool = True


class SilenceIn(BodySchema):
    hours: float
    reason: ReasonText
    target: str = Field("", description="a slug; empty = every target")
    rule: str = Field("", description="empty = every rule")
    replica: str = Field("", description="a replica or a domain; empty = all")


class SilenceOut(Schema):
    id: int
    target: str
    rule: str
    replica: str
    reason: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    ended_by: str

    @staticmethod
    def resolve_target(row: Silence) -> str:
        return row.target.slug if row.target else ""


class ChannelIn(BodySchema):
    name: str
    kind: str = Field(description="webhook or email")
    address: str = Field(description="a URL, or e-mail addresses with commas between them")


class ChannelOut(Schema):
    id: int
    name: str
    kind: str
    address: str
    created_by: str
    created_at: datetime


class DeliveryOut(Schema):
    id: int
    event: str
    state: str
    num_attempts: int
    answer: str
    created_at: datetime
    due_at: datetime
    finished_at: datetime | None
    payload: dict[str, Any]


def _target(slug: str) -> Target | None:
    return None if slug == CONSOLE else find_target(slug)


def _actor(request: HttpRequest) -> str:
    return caller(request).name


@router.get("", response=AlertPage)
def list_all_alerts(
    request: HttpRequest, target: str = "", rule: str = "", state: str = "", cursor: str = "", limit: int = board.PAGE
) -> dict[str, Any]:
    """Alerts of every target, newest first; ``state``: pending, firing or resolved."""
    if not 1 <= limit <= 500:
        raise Problem(422, f"limit is {limit}, expected 1 to 500")
    if state and state not in AlertState.values:
        raise Problem(422, f"state is {state!r:.80}, expected one of {', '.join(AlertState.values)}")
    found = board.history(target, rule, state, cursor, limit)
    following = str(found[limit - 1].pk) if len(found) > limit else None
    return {"items": [alert_payload(alert) for alert in found[:limit]], "next": following}


@router.get("/rules/{slug}", response=Annotated[list[dict[str, Any]], Documented(list[RuleStateOut])])
def list_rules(request: HttpRequest, slug: str) -> list[dict[str, Any]]:
    """Every rule of a target (or of "console"): state, reason, threshold in force."""
    rows, asked_at = board.ruled(_target(slug))
    return [
        {
            "rule": row.spec.rule,
            "state": row.state,
            "detail": row.detail,
            "threshold": row.threshold if row.spec.unit else None,
            "unit": row.spec.unit,
            "is_default": row.is_default,
            "is_enabled": row.is_enabled,
            "asked_at": asked_at.isoformat() if asked_at else None,
        }
        for row in rows
    ]


@router.put(
    "/rules/{slug}/{rule}", response=Annotated[dict[str, Any], Documented(RuleSettingOut)], auth=Allow("administer")
)
def change_rule(request: HttpRequest, slug: str, rule: str, body: AlertRuleIn) -> dict[str, Any]:
    """Change the threshold of a rule at one target, or switch it off there."""
    row = watching.set_rule(_target(slug), rule, _actor(request), threshold=body.threshold, is_enabled=body.is_enabled)
    return {"rule": row.rule, "threshold": row.threshold, "is_enabled": row.is_enabled}


@router.get("/silences", response=list[SilenceOut])
def list_silences(request: HttpRequest) -> list[Silence]:
    """Silences in force, the next to expire first."""
    return list(board.active_silences())


@router.post("/silences", response={201: SilenceOut}, auth=Allow("operate"))
def create_silence(request: HttpRequest, body: SilenceIn) -> tuple[int, Silence]:
    """Tell nobody about the alerts that match, for some hours."""
    target = find_target(body.target) if body.target else None
    return 201, watching.silence(_actor(request), body.hours, body.reason, target, body.rule, body.replica)


@router.delete("/silences/{int:silence_id}", response=SilenceOut, auth=Allow("operate"))
def end_silence(request: HttpRequest, silence_id: int) -> Silence:
    """End a silence now; 409 when it has ended already."""
    row = Silence.objects.select_related("target").filter(pk=silence_id).first()
    if row is None:
        raise Problem(404, f"there is no silence with the id {silence_id}")
    if not watching.end_silence(row, _actor(request)):
        raise Problem(409, f"the silence {silence_id} has ended already")
    row.refresh_from_db()
    return row


@router.get("/channels", response=list[ChannelOut], auth=Allow("administer"))
def list_channels(request: HttpRequest) -> list[Channel]:
    return list(Channel.objects.all())


@router.post(
    "/channels", response={201: Annotated[dict[str, Any], Documented(NewChannelOut)]}, auth=Allow("administer")
)
def create_channel(request: HttpRequest, body: ChannelIn, response: HttpResponse) -> tuple[int, dict[str, Any]]:
    """A new webhook or e-mail channel; a webhook's secret is shown this once."""
    row, secret = watching.add_channel(body.name, body.kind, body.address, _actor(request))
    response["Cache-Control"] = "no-store"
    return 201, {"id": row.pk, "name": row.name, "kind": row.kind, "secret": secret}


@router.delete("/channels/{int:channel_id}", response={204: None}, auth=Allow("administer"))
def delete_channel(request: HttpRequest, channel_id: int) -> tuple[int, None]:
    """Delete a channel and its delivery log."""
    watching.remove_channel(_channel(channel_id), _actor(request))
    return 204, None


@router.post("/channels/{int:channel_id}/test", response={202: DeliveryOut}, auth=Allow("administer"))
def test_channel(request: HttpRequest, channel_id: int) -> tuple[int, Delivery]:
    """Send a test notification; its delivery tells how it went."""
    return 202, watching.send_test(_channel(channel_id), _actor(request))


@router.get("/channels/{int:channel_id}/deliveries", response=list[DeliveryOut], auth=Allow("administer"))
def list_deliveries(request: HttpRequest, channel_id: int) -> list[Delivery]:
    """The last 100 notifications to one channel, newest first."""
    return list(_channel(channel_id).deliveries.all()[:100])


def _channel(channel_id: int) -> Channel:
    row = Channel.objects.filter(pk=channel_id).first()
    if row is None:
        raise Problem(404, f"there is no channel with the id {channel_id}")
    return row
