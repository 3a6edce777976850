"""What a person should know: what the rules find becomes alerts, each with a beginning and an end.

An alert ends when data says so. While its rule has no data it stays open, and says since when; it is closed, as not
known any more, when nothing can be expected to say it.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, connection, transaction
from django.db.models import QuerySet

from aurora_web import live
from aurora_web.registry.models import Target
from aurora_web.rollouts import notifications
from aurora_web.rollouts.fleet import standings
from aurora_web.rollouts.intent import lock_deployment
from aurora_web.rollouts.models import Alert, AlertState, Replica, Rule, RuleReport, RuleSetting, RuleState
from aurora_web.rollouts.rules import CONSOLE_SPECS, SPECS, Condition, NoData, Sight, Spec

log = logging.getLogger(__name__)
UNKNOWN_FOR = timedelta(days=1)  # without data, before an alert is closed
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
                _close(alert, "the rule is switched off", sight.now)
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
            found = list(spec.look(sight))
    except NoData as reason:
        for alert in known.values():
            _doubt(alert, str(reason), sight)
        return {"state": RuleState.NO_DATA, "detail": str(reason)}
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError, DatabaseError) as error:
        # One rule that cannot be asked must not silence the others; its alerts stay as they were.
        log.exception("the rule %s of %s could not be asked", spec.rule, target or "the console")
        return {"state": RuleState.ERROR, "detail": f"{type(error).__name__}: {error}"[:300]}
    conditions = [each for each in found if isinstance(each, Condition)]
    followed = [_follow(target, known.pop(c.replica, None), c, sight.now) for c in conditions]
    unknown = known.keys() - {each.replica for each in found}
    for name, alert in known.items():
        if name in unknown:
            _doubt(alert, _why_unknown(name, spec, sight), sight)
        else:
            _resolve(alert, sight.now)
    if followed:
        is_firing = any(alert.state == AlertState.FIRING for alert in followed)
        state = RuleState.FIRING if is_firing else RuleState.PENDING
        return {"state": state, "detail": followed[0].detail}
    if unknown:
        return {"state": RuleState.NO_DATA, "detail": _why_unknown(min(unknown), spec, sight)}
    return {"state": RuleState.NORMAL, "detail": ""}


def _why_unknown(name: str, spec: Spec, sight: Sight) -> str:
    is_silent = spec.needs_only_reports and name not in {s.replica.name for s in sight.standings if s.replica.is_alive}
    return f"{name} does not report" if is_silent else f"nothing is measured of {name} now"


def _follow(target: Target | None, alert: Alert | None, condition: Condition, now: datetime) -> Alert:
    if alert is None:
        alert = Alert(target=target, replica=condition.replica, rule=condition.rule, state=AlertState.PENDING)
        alert.since = now
    elif alert.state == AlertState.PENDING and alert.subject != condition.subject:
        alert.since = now
    before = (alert.state, alert.detail)
    was_unknown = alert.unknown_since is not None
    alert.unknown_since, alert.unknown_why = None, ""
    alert.detail, alert.subject = condition.detail, condition.subject[:200]
    if alert.state == AlertState.PENDING and now - alert.since >= condition.wait:
        alert.state, alert.fired_at = AlertState.FIRING, now
    is_news = was_unknown or (alert.state, alert.detail) != before
    if alert.pk is None or is_news or alert.since == now:
        alert.save()
    if is_news and alert.state == AlertState.FIRING:
        _publish(alert)
    if alert.state == AlertState.FIRING and alert.told_at is None:  # a silence that covered it may have ended
        _tell_firing(alert, now)
    return alert


def _tell_firing(alert: Alert, now: datetime) -> None:
    if notifications.tell_alert(alert, "alert.firing", now):
        alert.told_at = now
        alert.save(update_fields=["told_at"])


def _doubt(alert: Alert, why: str, sight: Sight) -> None:
    """Its rule has no data about it: it stays as it is, marked; one that only waited to fire is dropped."""
    if alert.state == AlertState.PENDING:
        alert.delete()
    elif gone := _gone(alert, sight):
        _close(alert, gone, sight.now)
    elif alert.unknown_since is None or alert.unknown_why != why[:300]:
        alert.unknown_since, alert.unknown_why = alert.unknown_since or sight.now, why[:300]
        alert.save(update_fields=["unknown_since", "unknown_why"])
        _publish(alert)


def _gone(alert: Alert, sight: Sight) -> str:
    """Why no data can be expected to end it; "" = some may still come."""
    if sight.target is not None and not sight.target.is_active:
        return "the target is inactive"
    if alert.rule in SPECS and SPECS[Rule(alert.rule)].needs_only_reports:
        ours = next((each.replica for each in sight.standings if each.replica.name == alert.replica), None)
        if ours is None:
            return f"{alert.replica} is no replica of the target any more"
        if not ours.is_alive and (successor := _successor(ours, sight)):
            return f"{successor} serves at the address of {ours.name} now"
    if alert.unknown_since is not None and sight.now - alert.unknown_since >= UNKNOWN_FOR:
        return f"for a day there was no data: {alert.unknown_why}"
    return ""


def _successor(gone: Replica, sight: Sight) -> str:
    """The replica that came to the address of another after that one's last report; "" = none."""
    alive = [each.replica for each in sight.standings if each.replica.is_alive]
    came = [each for each in alive if gone.url and each.url == gone.url and each.connected_at > gone.seen_at]
    return came[0].name if came else ""


def _close(alert: Alert, why: str, now: datetime) -> None:
    """The end of an episode of which nobody knows whether it is over."""
    alert.unknown_since, alert.unknown_why = alert.unknown_since or now, why[:300]
    _end(alert, now)


def _resolve(alert: Alert, now: datetime) -> None:
    """The end of an episode: data says that it is over."""
    alert.unknown_since, alert.unknown_why = None, ""
    _end(alert, now)


def _end(alert: Alert, now: datetime) -> None:
    """One that never fired leaves nothing behind."""
    if alert.state == AlertState.PENDING:
        alert.delete()
        return
    alert.state, alert.ended_at = AlertState.RESOLVED, now
    alert.save(update_fields=["state", "ended_at", "unknown_since", "unknown_why"])
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
    """An alert as the browsers and the API get it; one that ended while there was no data is not known to be over."""
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
        "no_data_since": alert.unknown_since.timestamp() if alert.unknown_since else None,
        "no_data_why": alert.unknown_why,
    }
