"""Questions about alerting over all targets: what fires, in which state each rule is, what was."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone

from aurora_web.registry.models import Target
from aurora_web.rollouts.links import ROLL_BACK, decision_link, look_link
from aurora_web.rollouts.models import Alert, AlertState, RuleReport, RuleSetting, RuleState, Silence
from aurora_web.rollouts.rules import CONSOLE_SPECS, SPECS, Spec

STALE = timedelta(seconds=60)  # rules are asked every ten seconds
PAGE = 50
ORDER = {str(rule): place for place, rule in enumerate([*CONSOLE_SPECS, *SPECS])}


@dataclass(frozen=True, slots=True)
class Shown:
    """One alert with its links and the silence that covers it."""

    alert: Alert
    silence: Silence | None

    @property
    def decision(self) -> dict[str, str | bool]:
        words, path = decision_link(self.alert)
        return {"words": words, "path": path, "is_for_operators": words == ROLL_BACK}

    @property
    def look(self) -> str:
        return look_link(self.alert)


@dataclass(frozen=True, slots=True)
class Ruled:
    """One rule at one target: its state, and the threshold in force."""

    spec: Spec
    state: str
    detail: str
    threshold: float
    is_default: bool
    is_enabled: bool

    @property
    def label(self) -> str:
        return RuleState(self.state).label


def open_board(slug: str = "") -> dict[str, list[Shown]]:
    """{"firing": [...], "pending": [...]}: what matters most first, silenced ones last."""
    found = Alert.objects.filter(ended_at=None).select_related("target")
    if slug:
        found = found.filter(target__slug=slug)
    silences = list(active_silences())
    shown = [Shown(alert, next((s for s in silences if s.covers(alert)), None)) for alert in found]
    shown.sort(key=lambda each: (each.silence is not None, ORDER.get(each.alert.rule, 99), each.alert.since))
    return {
        "firing": [each for each in shown if each.alert.state == AlertState.FIRING],
        "pending": [each for each in shown if each.alert.state == AlertState.PENDING],
    }


def active_silences() -> QuerySet[Silence]:
    return Silence.objects.filter(expires_at__gt=timezone.now()).select_related("target").order_by("expires_at")


def unsure(now: datetime) -> list[dict[str, Any]]:
    """Rules in the states No data and Error, and targets whose rules were not asked lately."""
    found = []
    for report in RuleReport.objects.select_related("target").order_by("target__slug"):
        slug = report.target.slug if report.target else ""
        if now - report.at > STALE:
            found.append({"target": slug, "rule": "every rule", "state": "stale", "detail": "", "at": report.at})
        for rule, each in report.rules.items():
            if each["state"] in (RuleState.NO_DATA, RuleState.ERROR):
                found.append({"target": slug, "rule": _label(rule), **each, "at": report.at})
    return found


def _label(rule: str) -> str:
    spec = next((spec for known, spec in {**CONSOLE_SPECS, **SPECS}.items() if known == rule), None)
    return spec.rule.label if spec else rule


def ruled(target: Target | None) -> tuple[list[Ruled], datetime | None]:
    """Every rule of one target (None = the console), and when they were asked."""
    report = RuleReport.objects.filter(target=target).first()
    chosen = {setting.rule: setting for setting in RuleSetting.objects.filter(target=target)}
    rows = []
    for rule, spec in (CONSOLE_SPECS if target is None else SPECS).items():
        said = (report.rules if report else {}).get(rule, {})
        setting = chosen.get(rule)
        own = setting.threshold if setting else None
        rows.append(
            Ruled(
                spec=spec,
                state=said.get("state", RuleState.NO_DATA),
                detail=said.get("detail", "not asked yet"),
                threshold=spec.threshold if own is None else own,
                is_default=own is None,
                is_enabled=setting.is_enabled if setting else True,
            )
        )
    return rows, report.at if report else None


def history(slug: str = "", rule: str = "", state: str = "", cursor: str = "", limit: int = PAGE) -> list[Alert]:
    """Alerts newest first, one more than ``limit`` when there is a next page; ``cursor`` is the last id seen."""
    found = Alert.objects.select_related("target").order_by("-id")
    if slug:
        found = found.filter(target__slug=slug)
    if rule:
        found = found.filter(rule=rule)
    if state:
        found = found.filter(state=state)
    if cursor.isascii() and cursor.isdigit() and len(cursor) < 19:
        found = found.filter(id__lt=int(cursor))
    return list(found[: limit + 1])
