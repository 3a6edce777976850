"""What speculation saves and learning costs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.http import HttpRequest
from ninja import Body, Router

from aurora_web.accounts.auth import Allow, caller
from aurora_web.problems import Problem
from aurora_web.registry.services import find_target
from aurora_web.rollouts.answers import CostsOut, EconomicsOut
from aurora_web.rollouts.economics import COSTS, DEFAULT_RANGE, RANGES, CostError, Economics, economics, set_costs

router = Router(tags=["economics"], auth=Allow("read"))


def economics_payload(found: Economics) -> dict[str, Any]:
    """Seconds, bytes and money; capture's engine time is an assumption, ``costs.capture_percent`` of the requests'."""
    return {
        "since": found.since.timestamp(),
        "until": found.until.timestamp(),
        "total": asdict(found.total),
        "domains": [asdict(domain) for domain in found.domains],
        "training": asdict(found.training),
        "capture": asdict(found.capture),
        "costs": {name: getattr(found.costs, name) for name in COSTS},
        "saved_cost": asdict(found.saved_cost),
        "training_cost": found.training_cost,
        "capture_cost": found.capture_cost,
        "net_cost": asdict(found.net_cost),
        "break_even_seconds": found.break_even_seconds if found.costs.engine_hour else None,
        "advice": asdict(found.advice),
    }


@router.get("/{slug}/economics", response=EconomicsOut)
def target_economics(request: HttpRequest, slug: str, range: str = DEFAULT_RANGE) -> dict[str, Any]:
    """Engine seconds saved with their 95 % interval, seconds of training, what both cost, and advice.

    ``range``: 1h, 24h, 7d or 28d. ``advice.action``: keep, pause training (the range's training and capture cost more
    than was saved), turn off, wait (too little is known, or nothing is drafted now); with a largest lookahead of 0
    turn back on, stay off or wait, by the week up to the last drafts (28 days back) and newer versions' predictions.
    """
    target = find_target(slug)
    if range not in RANGES:
        raise Problem(422, f"range is {range!r:.40}: expected one of {', '.join(RANGES)}")
    return economics_payload(economics(target, range))


@router.patch("/{slug}/costs", response=CostsOut, auth=Allow("operate"))
def change_costs(request: HttpRequest, slug: str, body: Body[dict[str, Any]]) -> dict[str, Any]:
    """Assumptions: engine_hour, trainer_hour, capture_percent, currency; ``reason`` goes into the activity log."""
    actor = caller(request).name
    given = {name: value for name, value in body.items() if name != "reason"}
    try:
        row = set_costs(find_target(slug), given, actor, str(body.get("reason", ""))[:500])
    except CostError as error:
        raise Problem(422, str(error), field=error.field) from error
    return {name: getattr(row, name) for name in COSTS}
