"""What a person should know: what the rules find becomes alerts, each with a beginning and an end."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from django.db import DatabaseError, connection, transaction
from django.db.models import QuerySet

from aurora_web import live
from aurora_web.registry.models import Target
from aurora_web.rollouts import notifications
from aurora_web.rollouts.fleet import standings
from aurora_web.rollouts.intent import lock_deployment
from aurora_web.rollouts.models import Alert, AlertState, Rule, RuleReport, RuleSetting, RuleState
from aurora_web.rollouts.rules import CONSOLE_SPECS, SPECS, Condition, NoData, Sight, Spec

log = logging.getLogger(__name__)
CONSOLE_LOCK = 0x616C  # advisory lock of the console's own rules; targets are locked by their deployment


@transaction.atomic
def evaluate(target: Target, now: datetime, *, only_reports: bool = False) -> None:
    """Open, fire and resolve the alerts of a target by what is true now; ``only_reports`` asks the quick rules."""
    lock_deployment(target)  # the web process and the beat's worker come here at once
    asked = {rule: spec for rule, spec in SPECS.items() if spec.needs_only_reports or not only_reports}
    sight = Sight(now, 0.0, target, standings(target, now))
    _ask(target, asked, sight)


@transaction.atomic
def evaluate_console(now: datetime) -> None:
    """The rules about the console itself."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [CONSOLE_LOCK])
    _ask(None, CONSOLE_SPECS, Sight(now, 0.0))


def _ask(target: Target | None, asked: dict[Rule, Spec], sight: Sight) -> None:
    chosen = {setting.rule: setting for setting in RuleSetting.objects.filter(target=target)}
    known: dict[str, dict[str, Alert]] = {rule: {} for rule in asked}
    for alert in open_alerts().filter(target=target, rule__in=asked).select_related("target"):
        known[alert.rule][alert.replica] = alert
    found: dict[str, dict[str, str]] = {}
    for rule, spec in asked.items():
        setting = chosen.get(rule)
        if setting is not None and not setting.is_enabled:
            for alert in known[rule].values():
                _resolve(alert, sight.now)
            found[rule] = {"state": RuleState.NORMAL, "detail": "switched off"}
            continue
        found[rule] = _judge(target, spec, _with(sight, spec, setting), known[rule])
    report, _ = RuleReport.objects.get_or_create(target=target, defaults={"at": sight.now})
    report.rules, report.at = report.rules | found, sight.now
    report.save()


def _with(sight: Sight, spec: Spec, setting: RuleSetting | None) -> Sight:
    return Sight(sight.now, _threshold(spec, setting), sight.target, sight.standings)


def _threshold(spec: Spec, setting: RuleSetting | None) -> float:
    own = setting.threshold if setting is not None else None
    return spec.threshold if own is None else own


def threshold_of(target: Target, rule: Rule) -> float | None:
    """From where on a rule fires at a target; None where it is switched off."""
    setting = RuleSetting.objects.filter(target=target, rule=rule).first()
    return None if setting is not None and not setting.is_enabled else _threshold(SPECS[rule], setting)


def _judge(target: Target | None, spec: Spec, sight: Sight, known: dict[str, Alert]) -> dict[str, str]:
    """Ask one rule, follow its alerts, and say in which state it is."""
    try:
        with transaction.atomic():
            conditions = list(spec.look(sight))
    except NoData as reason:
        for alert in known.values():
            _resolve(alert, sight.now)
        return {"state": RuleState.NO_DATA, "detail": str(reason)}
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError, DatabaseError) as error:
        # One rule that cannot be asked must not silence the others; its alerts stay as they were.
        log.exception("the rule %s of %s could not be asked", spec.rule, target or "the console")
        return {"state": RuleState.ERROR, "detail": f"{type(error).__name__}: {error}"[:300]}
    followed = [_follow(target, known.pop(c.replica, None), c, sight.now) for c in conditions]
    for gone in known.values():
        _resolve(gone, sight.now)
    if not followed:
        return {"state": RuleState.NORMAL, "detail": ""}
    is_firing = any(alert.state == AlertState.FIRING for alert in followed)
    state = RuleState.FIRING if is_firing else RuleState.PENDING
    return {"state": state, "detail": followed[0].detail}


def _follow(target: Target | None, alert: Alert | None, condition: Condition, now: datetime) -> Alert:
    if alert is None:
        alert = Alert(target=target, replica=condition.replica, rule=condition.rule, state=AlertState.PENDING)
        alert.since = now
    elif alert.state == AlertState.PENDING and alert.subject != condition.subject:
        alert.since = now
    before = (alert.state, alert.detail)
    alert.detail, alert.subject = condition.detail, condition.subject[:200]
    if alert.state == AlertState.PENDING and now - alert.since >= condition.wait:
        alert.state, alert.fired_at = AlertState.FIRING, now
    if alert.pk is None or (alert.state, alert.detail) != before or alert.since == now:
        alert.save()
    if (alert.state, alert.detail) != before and alert.state == AlertState.FIRING:
        _publish(alert)
    if alert.state == AlertState.FIRING and alert.told_at is None:  # a silence that covered it may have ended
        _tell_firing(alert, now)
    return alert


def _tell_firing(alert: Alert, now: datetime) -> None:
    if notifications.tell_alert(alert, "alert.firing", now):
        alert.told_at = now
        alert.save(update_fields=["told_at"])


def _resolve(alert: Alert, now: datetime) -> None:
    """The end of an episode; one that never fired leaves nothing behind."""
    if alert.state == AlertState.PENDING:
        alert.delete()
        return
    alert.state, alert.ended_at = AlertState.RESOLVED, now
    alert.save(update_fields=["state", "ended_at"])
    _publish(alert)
    if alert.told_at is not None:
        notifications.tell_alert(alert, "alert.resolved", now)


def _publish(alert: Alert) -> None:
    live.publish(alert.target_id or live.CONSOLE, "alert", alert_payload(alert))


def open_alerts() -> QuerySet[Alert]:
    """Pending and firing ones."""
    return Alert.objects.filter(ended_at=None)


def firing_alerts(target: Target) -> QuerySet[Alert]:
    """What is firing at a target, newest first."""
    return open_alerts().filter(target=target, state=AlertState.FIRING).select_related("target")


def alert_payload(alert: Alert) -> dict[str, Any]:
    """An alert as the browsers, the API and the webhooks get it."""
    return {
        "id": alert.pk,
        "target": alert.target_slug,
        "rule": alert.rule,
        "replica": alert.replica,
        "state": alert.state,
        "detail": alert.detail,
        "since": alert.since.timestamp(),
        "fired_at": alert.fired_at.timestamp() if alert.fired_at else None,
        "ended_at": alert.ended_at.timestamp() if alert.ended_at else None,
    }
