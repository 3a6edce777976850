"""Rules for the names of domains."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from ninja import Field, Router, Schema

from aurora_web.accounts.auth import Allow, caller
from aurora_web.problems import Problem
from aurora_web.registry.services import find_target
from aurora_web.traces import domains
from aurora_web.traces.models import DomainRule
from aurora_web.wire import BodySchema, ReasonText

router = Router(tags=["domains"], auth=Allow("read"))


class RuleIn(BodySchema):
    kind: str = Field(description="exact, prefix or regex, of the header x-aurora-domain")
    patterns: list[str] = Field(description="one = rename or split, several = merge")
    domain: str
    reason: ReasonText = ""


class RuleOut(Schema):
    id: int
    kind: str
    pattern: str
    domain: str
    actor: str
    reason: str
    at: datetime
    ended_at: datetime | None
    ended_by: str


@router.get("/{slug}/domain-rules", response=list[RuleOut])
def list_rules(request: HttpRequest, slug: str, ended: bool = False) -> list[DomainRule]:
    """The rules that hold, in the order in which they are tried; with ``ended`` the last 200 ones that ended."""
    target = find_target(slug)
    if ended:
        return list(DomainRule.objects.filter(target=target).exclude(ended_at=None).order_by("-ended_at")[:200])
    return domains.active_rules(target)


@router.post("/{slug}/domain-rules", response={201: list[RuleOut]}, auth=Allow("operate"))
def add_rules(request: HttpRequest, slug: str, body: RuleIn) -> tuple[int, list[DomainRule]]:
    """Rename, merge or split what arrives from now on; 422 has the position of an error in a regular expression."""
    try:
        added = domains.add_rules(
            find_target(slug), body.kind, body.patterns, body.domain, caller(request).name, body.reason
        )
    except domains.RuleError as error:
        extra: dict[str, Any] = {"field": error.field}
        if error.position is not None:
            extra["position"] = error.position
        raise Problem(422, str(error), **extra) from error
    return 201, added


@router.delete("/{slug}/domain-rules/{int:rule_id}", response={204: None}, auth=Allow("operate"))
def end_rule(request: HttpRequest, slug: str, rule_id: int, reason: ReasonText = "") -> tuple[int, None]:
    """The rule holds no more; 409 when somebody ended it before."""
    rule = DomainRule.objects.filter(target=find_target(slug), pk=rule_id).select_related("target").first()
    if rule is None:
        raise Problem(404, f"{slug} has no domain rule {rule_id}")
    try:
        domains.end_rule(rule, caller(request).name, reason)
    except domains.RuleEnded as error:
        raise Problem(409, str(error)) from error
    return 204, None
