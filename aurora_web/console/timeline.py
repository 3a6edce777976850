"""What happened to a target, in sentences with numbers; some of it is drawn as markers on the charts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from django.db.models import Q, QuerySet

from aurora_web.accounts.models import AuditEvent
from aurora_web.console.words import READINGS, what_was_done
from aurora_web.metrics import charts
from aurora_web.metrics.mix import shifts
from aurora_web.numbers import grouped, signed_percent
from aurora_web.registry.models import Status, Target, Transition
from aurora_web.rollouts.gate_table import num_counted
from aurora_web.rollouts.models import GateDecision
from aurora_web.training.models import SliceState, TrainingSlice

MARKERS = ("swap", "canary", "rollback", "shift", "alert", "pin")
DRAWN = (Status.LIVE, Status.CANARY, Status.ROLLED_BACK)  # of a version's transitions
MAX_EVENTS = 500
MAX_MARKERS = 300
TOLD = ("at", "old", "new", "actor", "reason", "version__number", "version__gate_decision__reasons",
        "version__gate_decision__domains", "version__gate_decision__gain", "version__gate_decision__gain_low",
        "version__gate_decision__gain_high", "version__gate_decision__predicted_speedup",
        "version__gate_decision__live_predicted_speedup")  # fmt: skip
# Told by the transition of the version itself.
TOLD_ELSEWHERE = ("version.", "canary.")
PINS = ("domain.pin", "domain.unpin", "domain.pin_undo")
SHIFT_BUCKET = 30


def timeline(
    target: Target,
    since: float,
    until: float,
    points: Sequence[Mapping[str, Any]] = (),
    bucket: int = 0,
    limit: int = MAX_EVENTS,
) -> list[dict[str, Any]]:
    """``[{"at", "kind", "text", "version"}]``, newest first; kinds in MARKERS are drawn on the charts.

    Further kinds: "candidate", "training", "person"; "ended" (an alert) and "closed" (one that nobody can say is over).
    At most ``limit``, the newest. Who has read the chart's ``points`` of this range gives them, with their ``bucket``;
    they are not read again where they tell enough.
    """
    begin, end = datetime.fromtimestamp(since, UTC), datetime.fromtimestamp(until, UTC)
    found = [
        *_transitions(_told_of_versions(target, begin, end), limit),
        *_alerts(target, begin, end),
        *_failures(target, begin, end, limit),
        *_people(_told_of_people(target, begin, end), limit),
        *_shifts(target, since, until, points, bucket),
    ]
    return sorted(found, key=lambda event: -event["at"])[:limit]


def markers(
    target: Target,
    since: float,
    until: float,
    points: Sequence[Mapping[str, Any]] = (),
    bucket: int = 0,
    limit: int = MAX_MARKERS,
) -> list[dict[str, Any]]:
    """Of the timeline what is drawn on the charts, kinds in MARKERS: at most ``limit``, the newest."""
    begin, end = datetime.fromtimestamp(since, UTC), datetime.fromtimestamp(until, UTC)
    found = [
        *_transitions(_told_of_versions(target, begin, end).filter(new__in=DRAWN), limit),
        *(event for event in _alerts(target, begin, end) if event["kind"] in MARKERS),
        *_people(_told_of_people(target, begin, end).filter(action__in=PINS), limit),
        *_shifts(target, since, until, points, bucket),
    ]
    return sorted(found, key=lambda event: -event["at"])[:limit]


def _event(at: datetime, kind: str, text: str, version: int | None = None) -> dict[str, Any]:
    return {"at": at.timestamp(), "kind": kind, "text": text, "version": version}


def _told_of_versions(target: Target, begin: datetime, end: datetime) -> QuerySet[Transition]:
    rows = Transition.objects.filter(version__target=target, at__gte=begin, at__lt=end)
    return rows.exclude(new=Status.RETIRED).exclude(old="", version__gate_decision__isnull=False)


def _transitions(rows: QuerySet[Transition], limit: int) -> Iterator[dict[str, Any]]:
    for row in rows.select_related("version__gate_decision").only(*TOLD)[:limit]:
        kind, text = _told(row)
        yield _event(row.at, kind, text, row.version.number)


def _told(row: Transition) -> tuple[str, str]:
    name = f"v{row.version.number}"
    because = f": {row.reason}" if row.reason else ""
    if row.new == Status.LIVE:
        return "swap", f"{name} went live by {row.actor}{because}"
    if row.new == Status.ROLLED_BACK:
        return "rollback", f"{name} was rolled back by {row.actor}{because}"
    if row.new == Status.CANARY:
        return "canary", f"{name} went into canary{because}"
    decision = getattr(row.version, "gate_decision", None)
    if row.new == Status.PASSED and decision is not None:
        return "candidate", f"candidate {name} passed{_measured(decision)}"
    if row.old == Status.CANDIDATE and decision is not None:
        return "candidate", f"candidate {name} was rejected: {' '.join(decision.reasons)}"
    if row.new == Status.REJECTED:
        return "candidate", f"{name} was set aside by {row.actor}{because}"
    return "candidate", f"{name} was made: {row.reason}"


def _measured(decision: GateDecision) -> str:
    """: +12 % predicted speed, +14 % accept length (95 %: +8 % to +20 %), 1,240 traces, worst domain sql +2 %"""
    if decision.gain is None:
        return f": {' '.join(decision.reasons)}"
    speed = decision.predicted_speed_gain
    said = f": {_percent(speed)} predicted speed, " if speed is not None else ": "
    said += f"{_percent(decision.gain)} accept length"
    if decision.gain_low is not None and decision.gain_high is not None:
        said += f" (95 %: {_percent(decision.gain_low)} to {_percent(decision.gain_high)})"
    said += f", {grouped(num_counted(decision.domains))} traces"
    known = [domain for domain in decision.domains if domain["gain"] is not None]
    if known:
        worst = min(known, key=lambda domain: domain["gain"])
        said += f", worst domain {worst['domain']} {_percent(worst['gain'])}"
    return said


def _percent(share: float) -> str:
    return signed_percent(share, 0)


def _alerts(target: Target, begin: datetime, end: datetime) -> Iterator[dict[str, Any]]:
    within = Q(fired_at__gte=begin, fired_at__lt=end) | Q(ended_at__gte=begin, ended_at__lt=end)
    fired = target.alerts.filter(within).exclude(fired_at=None)
    alerts = fired.only("target", "rule", "detail", "fired_at", "ended_at", "unknown_since", "unknown_why")
    for alert in alerts[:MAX_EVENTS]:
        name = alert.get_rule_display()
        if alert.fired_at and begin <= alert.fired_at < end:
            yield _event(alert.fired_at, "alert", f"alert: {name}. {alert.detail}")
        if alert.ended_at and begin <= alert.ended_at < end:
            kind, text = "ended", f"the alert {name} ended. {alert.detail}"
            if alert.unknown_since is not None:
                kind, why = "closed", f"not known to be over: {alert.unknown_why}"
                text = f"the alert {name} was closed, {why}. It was: {alert.detail}"
            yield _event(alert.ended_at, kind, text)


def _failures(target: Target, begin: datetime, end: datetime, limit: int) -> Iterator[dict[str, Any]]:
    over = TrainingSlice.objects.filter(
        run__target=target, state__in=[SliceState.FAILED, SliceState.LOST], finished_at__gte=begin, finished_at__lt=end
    )
    for row in over[:limit]:
        what = f"failed: {row.error}" if row.state == SliceState.FAILED else "was lost with its worker; it starts again"
        if row.finished_at:
            yield _event(row.finished_at, "training", f"a training slice {what}")


def _told_of_people(target: Target, begin: datetime, end: datetime) -> QuerySet[AuditEvent]:
    told = Q(action__in=READINGS)
    for prefix in TOLD_ELSEWHERE:
        told |= Q(action__startswith=prefix)
    return AuditEvent.objects.filter(target_slug=target.slug, at__gte=begin, at__lt=end).exclude(told)


def _people(events: QuerySet[AuditEvent], limit: int) -> Iterator[dict[str, Any]]:
    told_of = events.values_list("at", "actor", "action", "subject", "reason", "detail")
    for at, actor, action, subject, reason, detail in told_of[:limit]:
        kind = "pin" if action in PINS else "person"
        yield _event(at, kind, f"{actor} {what_was_done(action, subject, reason, detail)}")


def _shifts(
    target: Target, since: float, until: float, points: Sequence[Mapping[str, Any]], known: int
) -> Iterator[dict[str, Any]]:
    bucket = max(SHIFT_BUCKET, charts.bucket_seconds(until - since))
    if known and bucket % known == 0:
        mix = [{**point, "at": math.floor(point["at"] / bucket) * bucket} for point in points]
    else:
        mix = charts.requests(target, since, until, bucket)
    for found in shifts(mix, bucket):
        yield _event(datetime.fromtimestamp(found["at"], UTC), "shift", found["text"])
