"""The notice on every page of a target whose replicas do not all report: figures do not move, and say so."""

from __future__ import annotations

from typing import Any

from django import template

from aurora_web.registry.models import Target
from aurora_web.registry.traffic_reports import trouble

register = template.Library()


@register.inclusion_tag("console/_standing.html")
def standing_notice(target: Target) -> dict[str, Any]:
    """Who is down; nothing where every replica reports, or none ever has."""
    replicas = sorted(target.replicas.all(), key=lambda replica: replica.seen_at, reverse=True)
    down = [replica for replica in replicas if not replica.is_alive]
    return {"target": target, "down": down, "num_alive": len(replicas) - len(down)}


@register.inclusion_tag("console/_traffic_trouble.html")
def traffic_notice(target: Target, num_alive: int) -> dict[str, Any]:
    """What is wrong with the target's demo traffic; ``num_alive``: replicas that report."""
    return {"target": target, "trouble": trouble(target, num_alive)}
