"""Where somebody decides about an alert: one click from the alert, one more for the decision itself."""

from __future__ import annotations

from urllib.parse import quote

from aurora_web.rollouts.models import Alert, Rule

ROLL_BACK = "Roll back…"
ABOUT_SPEED = {Rule.SPEEDUP_BELOW_ONE, Rule.ACCEPT_LENGTH_FELL}


def decision_link(alert: Alert) -> tuple[str, str]:
    """(words, path) of the page that answers this alert."""
    slug = alert.target_slug
    if not slug:
        return "Rules", "/alerts/rules/"
    if alert.rule in ABOUT_SPEED:
        return ROLL_BACK, f"/targets/{slug}/rollback/"
    if alert.rule == Rule.TRAINER_STALLED:
        return "Training", f"/targets/{slug}/#charts"
    return "Replicas", f"/targets/{slug}/#replicas"


def look_link(alert: Alert) -> str:
    """The live page, of the alert's domain where it is about one; "" for the console's own alerts."""
    if not alert.target_slug:
        return ""
    domain = f"?domain={quote(alert.replica)}" if alert.rule == Rule.ACCEPT_LENGTH_FELL else ""
    return f"/targets/{alert.target_slug}/{domain}"
