"""How far a target has come on the way to its next version: six steps with counts, and estimates of what is left."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from django.conf import settings
from django.db.models import Count, Q
from django.utils import timezone

from aurora_web.registry.models import SpeculatorVersion, Status, Target
from aurora_web.rollouts import canaries
from aurora_web.rollouts.canary_verdict import Action
from aurora_web.rollouts.freeze import frozen
from aurora_web.rollouts.models import Deployment
from aurora_web.traces import services as traces
from aurora_web.training.history import evaluation_seconds, trained_until
from aurora_web.training.models import SliceState, TrainingRun, TrainingSlice
from aurora_web.training.services import FIRST_SLICE_SECONDS

NAMES = ("connect", "collect", "train", "evaluate", "canary", "live")
EVALUATION = ("evaluate", "save")  # phases of a TrainProgress
TITLES = {name: name.capitalize() for name in NAMES}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the stepper."""

    name: str
    text: str  # with counts
    is_current: bool
    is_done: bool
    seconds_left: float | None = None  # an estimate; None = cannot be known
    note: str = ""  # in its place: what is waited for

    @property
    def title(self) -> str:
        return TITLES[self.name]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the stepper is drawn from."""

    num_alive: int
    num_fresh: int  # traces that wait, counted up to num_wanted
    num_wanted: int
    traces_per_second: float | None
    step: int
    slice_state: str  # "" = none yet
    slice_elapsed: float
    slice_budget: float
    phase: str
    evaluation_left: float | None  # by what the latest evaluations of the run took; None = not evaluating, or unknown
    is_paused: bool
    num_versions: int
    canary: int | None
    canary_elapsed: float
    canary_seconds: float
    canary_waits: str  # why it is not decided though its minutes are over; "" = they are not, or nothing is missing
    has_canary: bool  # the policy asks for one
    live: int | None
    is_live_random: bool
    num_waiting: int  # passed versions that wait for a person


def steps(facts: Facts) -> tuple[Step, ...]:
    """The six steps; exactly one is current."""
    current = _current(facts)
    place = NAMES.index(current)
    is_day_zero = facts.live is None or facts.is_live_random
    return tuple(
        Step(
            name=name,
            text=_TEXTS[name](facts),
            is_current=name == current,
            is_done=i < place or (name == "live" and not is_day_zero),
            seconds_left=_left(name, facts) if name == current else None,
            note=_note(name, facts) if name == current else "",
        )
        for i, name in enumerate(NAMES)
    )


def _current(facts: Facts) -> str:
    if not facts.num_alive:
        return "connect"
    if facts.canary is not None:
        return "canary"
    if facts.slice_state in (SliceState.RUNNING, SliceState.QUEUED):
        return "evaluate" if _is_evaluating(facts.slice_state, facts.phase) else "train"
    if facts.num_waiting:
        return "live"
    return "collect"


def _is_evaluating(slice_state: str, phase: str) -> bool:
    return slice_state == SliceState.RUNNING and phase in EVALUATION


def _left(name: str, facts: Facts) -> float | None:
    """None where it takes longer than was reckoned, too."""
    left = 0.0
    if name == "collect" and facts.traces_per_second and not facts.is_paused:
        left = (facts.num_wanted - facts.num_fresh) / facts.traces_per_second
    elif name == "train" and facts.slice_state == SliceState.RUNNING:
        left = facts.slice_budget - facts.slice_elapsed
    elif name == "evaluate":
        left = facts.evaluation_left or 0.0
    elif name == "canary":
        left = facts.canary_seconds - facts.canary_elapsed
    return left if left > 0 else None


def _note(name: str, facts: Facts) -> str:
    """What a step that should be over by the estimate waits for; "" where it is not, or was never estimated."""
    if name == "canary" and facts.canary_elapsed >= facts.canary_seconds:
        return f"waits: {facts.canary_waits}" if facts.canary_waits else "any moment"
    is_over = name == "evaluate" and facts.evaluation_left is not None and facts.evaluation_left <= 0
    return "any moment, by what the last ones took (estimate)" if is_over else ""


def _connect(facts: Facts) -> str:
    if not facts.num_alive:
        return "no replica reports"
    return f"{facts.num_alive} replica{'s' if facts.num_alive > 1 else ''} reporting"


def _collect(facts: Facts) -> str:
    if facts.is_paused:
        return "training is paused"
    if facts.num_fresh >= facts.num_wanted:
        return f"{facts.num_wanted} or more new traces wait"
    return f"{facts.num_fresh} of {facts.num_wanted} new traces"


def _train(facts: Facts) -> str:
    if facts.slice_state == SliceState.QUEUED:
        return f"a slice is queued{f', step {facts.step:,}' if facts.step else ''}"
    return f"step {facts.step:,}" if facts.step else "no optimiser step yet"


def _evaluate(facts: Facts) -> str:
    return f"{facts.num_versions:,} version{'' if facts.num_versions == 1 else 's'} judged so far"


def _canary(facts: Facts) -> str:
    if facts.canary is not None:
        return f"v{facts.canary}, {facts.canary_elapsed / 60:.1f} of {facts.canary_seconds / 60:g} minutes"
    return "the policy asks for one" if facts.has_canary else "the policy asks for none"


def _live(facts: Facts) -> str:
    if facts.num_waiting:
        return f"{facts.num_waiting} wait{'s' if facts.num_waiting == 1 else ''} for a person"
    if facts.live is None:
        return "no version yet"
    return f"v{facts.live}{', random weights' if facts.is_live_random else ''}"


_TEXTS = {
    "connect": _connect,
    "collect": _collect,
    "train": _train,
    "evaluate": _evaluate,
    "canary": _canary,
    "live": _live,
}


def facts_of(
    target: Target, live: SpeculatorVersion | None, run: TrainingRun | None, last: TrainingSlice | None
) -> Facts:
    """Read the facts of a target, whose ``last`` slice is of the ``run``."""
    now = timezone.now()
    replicas = [replica for replica in target.replicas.all() if replica.is_alive]
    rates = [replica.traces_per_second for replica in replicas if replica.traces_per_second is not None]
    num_fresh, _ = traces.count_fresh(target, settings.MIN_FRESH_TRACES)
    waiting = Count("pk", filter=Q(status=Status.PASSED))
    numbers = target.versions.exclude(status=Status.CANDIDATE).aggregate(judged=Count("pk"), waiting=waiting)
    return Facts(
        num_alive=len(replicas),
        num_fresh=num_fresh,
        num_wanted=settings.MIN_FRESH_TRACES,
        traces_per_second=sum(rates) if rates else None,
        step=run.step if run else 0,
        phase=run.phase if run else "",
        is_paused=hasattr(target, "training_pause"),
        num_versions=numbers["judged"],
        has_canary=target.canary_share > 0,
        live=live.number if live else None,
        is_live_random=live is not None and live.is_random,
        num_waiting=numbers["waiting"],
        **_slice(target, run, last, now),
        **_canary_facts(target, getattr(target, "deployment", None), now),
    )


def _slice(target: Target, run: TrainingRun | None, last: TrainingSlice | None, now: datetime) -> dict[str, Any]:
    num_done = run.slices.filter(state=SliceState.DONE).count() if run else 0
    started = last.started_at if last else None
    return {
        "slice_state": last.state if last else "",
        "slice_elapsed": (now - started).total_seconds() if started else 0.0,
        "slice_budget": min(target.slice_seconds, FIRST_SLICE_SECONDS + num_done),
        "evaluation_left": _evaluation_left(run, last, now),
    }


def _evaluation_left(run: TrainingRun | None, last: TrainingSlice | None, now: datetime) -> float | None:
    """Seconds, by the median of the latest evaluations; less than 0 = this one takes longer. None = cannot be known."""
    if run is None or last is None or not _is_evaluating(last.state, run.phase):
        return None
    past, began = evaluation_seconds(run), trained_until(last)
    return median(past) - (now - began).total_seconds() if past and began else None


def _canary_facts(target: Target, deployment: Deployment | None, now: datetime) -> dict[str, Any]:
    started = deployment.canary_started_at if deployment else None
    return {
        "canary": deployment.canary.number if deployment and deployment.canary else None,
        "canary_elapsed": (now - started).total_seconds() if started else 0.0,
        "canary_seconds": 60 * target.canary_minutes,
        "canary_waits": _canary_waits(target, deployment, now),
    }


def _canary_waits(target: Target, deployment: Deployment | None, now: datetime) -> str:
    """Why a canary is not decided though its minutes are over."""
    started = deployment.canary_started_at if deployment else None
    if deployment is None or started is None or (now - started).total_seconds() < 60 * target.canary_minutes:
        return ""
    found = canaries.verdict(deployment, now)
    if found is None or found.action == Action.ROLL_BACK:
        return ""
    if found.action == Action.PROMOTE:
        return "the target is frozen, so a person promotes it" if frozen(target) is not None else ""
    return found.reasons[0].rstrip(".")
