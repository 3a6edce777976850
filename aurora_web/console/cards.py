"""The overview's cards: a fixed number of questions, however many targets there are."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.db import connection
from django.db.models import Count, Max, Q
from django.utils.safestring import SafeString

from aurora_web.console.sparkline import Share, Sparkline, share_bar, shares, sparkline
from aurora_web.metrics.fleet_figures import fleet_figures
from aurora_web.metrics.rollups import BUCKET, DRAFTED_STEPS, DRAFTED_TOKENS
from aurora_web.metrics.settled import settled
from aurora_web.registry.models import SpeculatorVersion, Status, Target
from aurora_web.rollouts.alerts import open_alerts
from aurora_web.rollouts.approvals import waiting_for_person
from aurora_web.rollouts.models import Alert, AlertState, Replica
from aurora_web.training.models import TrainingRun

FIGURE_SECONDS = 600.0
SPARK_SECONDS = 1800.0
SPARK_BUCKET = 60
STATES = {
    "attention": "needs a person",
    "learning": "day 0",
    "serving": "serving",
    "down": "no replica reports",
    "inactive": "inactive",
}
SORTS = {"name": "name", "attention": "attention first", "speedup": "speedup", "accept_length": "accept length"}


@dataclass(slots=True)
class Card:
    """One target on the overview."""

    target: Target
    live: SpeculatorVersion | None = None
    canary: SpeculatorVersion | None = None
    num_to_approve: int = 0  # as in the navigation: nobody but a person lets them in
    alerts: list[Alert] = field(default_factory=list)
    num_replicas: int = 0
    num_alive: int = 0
    seen_at: datetime | None = None  # when any replica was heard of last
    run: TrainingRun | None = None
    is_paused: bool = False
    is_frozen: bool = False
    is_held: bool = False  # by a rollback
    total: dict[str, Any] = field(default_factory=dict)
    spark: Sparkline | None = None
    shares: tuple[Share, ...] = ()

    @property
    def is_stale(self) -> bool:
        """Nothing reports, so the figures stand still."""
        return self.target.is_active and self.num_replicas > 0 and not self.num_alive

    @property
    def share_bar(self) -> SafeString:
        return share_bar(self.shares)

    @property
    def states(self) -> frozenset[str]:
        """Everything of STATES that holds: a target that is down needs a person too, as soon as the alert fires."""
        is_down = self.target.is_active and not self.num_alive
        return frozenset({self.state, "down"} if is_down else {self.state})

    @property
    def state(self) -> str:
        """One of STATES."""
        if not self.target.is_active:
            return "inactive"
        if self.alerts or self.num_to_approve:
            return "attention"
        if not self.num_alive:
            return "down"
        return "learning" if self.live is None or self.live.is_random else "serving"

    @property
    def state_words(self) -> str:
        return STATES[self.state]


def cards() -> list[Card]:
    """Every target's card."""
    targets = Target.objects.defer("config").select_related("freeze", "training_pause", "deployment")
    found = {target.pk: _card(target) for target in targets}
    _add_versions(found)
    _add_fleet(found)
    _add_figures(found)
    return list(found.values())


def _card(target: Target) -> Card:
    is_held = hasattr(target, "deployment") and target.deployment.is_held
    return Card(
        target, is_paused=hasattr(target, "training_pause"), is_frozen=hasattr(target, "freeze"), is_held=is_held
    )


def chosen_cards(found: list[Card], q: str, state: str, sort: str) -> list[Card]:
    """Those whose slug or name contains ``q`` and of which ``state`` holds, in the order of ``sort`` (one of SORTS)."""
    wanted = [
        card
        for card in found
        if (not q or q.lower() in f"{card.target.slug} {card.target.name}".lower())
        and (not state or state in card.states)
    ]
    return sorted(wanted, key=lambda card: _order(card, sort))


def _order(card: Card, sort: str) -> tuple[float, str]:
    places = {
        "attention": list(STATES).index(card.state),
        "speedup": -(card.total["speedup"]["value"] or 0.0),
        "accept_length": -(card.total["accept_length"] or 0.0),
    }
    return float(places.get(sort, 0)), card.target.slug


def _add_versions(found: dict[int, Card]) -> None:
    in_service = SpeculatorVersion.objects.filter(status__in=[Status.LIVE, Status.CANARY], target_id__in=found)
    for version in in_service.only("target_id", "status", "number", "parent_id", "provenance"):
        setattr(found[version.target_id], version.status, version)
    for pk, n in waiting_for_person().filter(target_id__in=found).values_list("target_id").annotate(n=Count("pk")):
        found[pk].num_to_approve = n


def _add_fleet(found: dict[int, Card]) -> None:
    replicas = Replica.objects.filter(target_id__in=found).order_by().values_list("target_id")
    for pk, *heard in replicas.annotate(n=Count("pk"), alive=Count("pk", filter=Q(is_alive=True)), at=Max("seen_at")):
        card = found[pk]
        card.num_replicas, card.num_alive, card.seen_at = heard
    for alert in open_alerts().filter(state=AlertState.FIRING, target_id__in=found):
        if alert.target_id is not None:  # one of the console's own has none
            found[alert.target_id].alerts.append(alert)
    for run in TrainingRun.objects.filter(is_active=True, target_id__in=found).only("target_id", "step", "phase"):
        found[run.target_id].run = run


def _add_figures(found: dict[int, Card]) -> None:
    """Figures of the last ten minutes, and half an hour of accept length."""
    now = time.time()
    figures = fleet_figures(list(found), FIGURE_SECONDS, now)
    lengths = _accept_lengths(found, now)
    for pk, card in found.items():
        card.total = figures[pk].to_json()
        card.shares = shares(figures[pk].tokens_by_version)
        card.spark = sparkline(lengths[pk], now - SPARK_SECONDS, now)


def _accept_lengths(found: dict[int, Card], now: float) -> dict[int, list[tuple[float, float]]]:
    """{target: [(at, accept length)]} per SPARK_BUCKET."""
    lengths: dict[int, list[tuple[float, float]]] = defaultdict(list)
    settled = int(now // SPARK_BUCKET) - 1  # of the bucket before this one counts still come
    for pk, at, length in [*_settled_lengths(settled), *_lengths(settled, now)]:
        if pk in found:
            lengths[pk].append((at + SPARK_BUCKET / 2, length))
    return lengths


def _settled_lengths(until: int) -> list[tuple[int, float, float]]:
    """(target, at, accept length) of the buckets before number ``until``, read once: counts that come later than that
    are seen a bucket later."""
    first = until - SPARK_SECONDS / SPARK_BUCKET
    return settled.get(("spark", until), lambda: _lengths(first, until * SPARK_BUCKET))


def _lengths(first: float, until: float) -> list[tuple[int, float, float]]:
    given: dict[str, Any] = {"since": _moment(first * SPARK_BUCKET), "until": _moment(until), "bucket": SPARK_BUCKET}
    with connection.cursor() as cursor:
        cursor.execute(_LENGTHS, given)
        return list(cursor.fetchall())


_LENGTHS = f"""
SELECT target_id, {BUCKET} AS at, sum({DRAFTED_TOKENS})::float8 / sum({DRAFTED_STEPS})::float8
FROM metrics_metricwindow WHERE started_at >= %(since)s AND started_at < %(until)s AND lookahead > 0
    AND target_id IN (SELECT id FROM registry_target)
GROUP BY 1, 2 HAVING sum({DRAFTED_STEPS}) > 0 ORDER BY 1, 2
"""


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
