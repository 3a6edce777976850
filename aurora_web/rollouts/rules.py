"""The alert rules: what each looks at, its threshold, and how long it must be true before it fires."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings

from aurora_web.metrics import services as metrics
from aurora_web.metrics.levels import RECENT, accept_levels
from aurora_web.numbers import signed_percent
from aurora_web.registry.models import Target
from aurora_web.rollouts.fleet import CATCH_UP, Standing
from aurora_web.rollouts.models import Rule
from aurora_web.training.models import SliceState
from aurora_web.training.services import active_run, is_work_waiting, last_sign_of_life

NOW = timedelta(0)
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is true now; it fires when it has been true of the same ``subject`` for ``wait``."""

    rule: Rule
    replica: str  # or the domain, or the directory
    detail: str
    wait: timedelta = NOW
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Fine:
    """A replica, domain or directory of which the rule has looked at data, and found nothing.

    Of what a rule names neither so nor in a condition it has no data: an alert about it stays open.
    """

    replica: str


class NoData(Exception):
    """A rule that cannot say anything now; the message says why."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a rule sees: one target and its replicas; ``target`` is None for the console's own rules."""

    now: datetime
    threshold: float
    target: Target | None = None
    standings: list[Standing] = field(default_factory=list)

    @property
    def alive(self) -> list[Standing]:
        """Replicas that report. One that does not says nothing, and nothing is said about it."""
        found = [standing for standing in self.standings if standing.replica.is_alive]
        if not found:
            raise NoData("no replica reports")
        return found

    @property
    def of(self) -> Target:
        assert self.target is not None
        return self.target


Found = Condition | Fine
Look = Callable[[Sight], Iterator[Found]]


@dataclass(frozen=True, slots=True)
class Spec:
    """One rule; ``threshold`` is its default, in ``unit`` ("" = the rule has none)."""

    rule: Rule
    explanation: str
    look: Look
    threshold: float = 0.0
    unit: str = ""
    low: float = 0.0
    high: float = 1e12
    needs_only_reports: bool = False  # about replicas: asked again at each news of one, not only every ten seconds


def _why(detail: str) -> str:
    return detail.strip().rstrip(".") or "no reason given"


def _capture_broken(sight: Sight) -> Iterator[Found]:
    for found in sight.alive:
        replica = found.replica
        if replica.capture_state == "broken":
            why = _why(replica.capture_detail)
            yield Condition(Rule.CAPTURE_BROKEN, replica.name, f"{replica.name} serves, but keeps no traces: {why}.")
        else:
            yield Fine(replica.name)


def _swap_failed(sight: Sight) -> Iterator[Found]:
    for found in sight.alive:
        replica = found.replica
        if replica.state in {"swap_failed", "reverted"}:
            what = "could not swap" if replica.state == "swap_failed" else "went back by itself"
            why = _why(replica.detail)
            detail = f"{replica.name} {what} (generation {replica.generation}): {why}."
            yield Condition(Rule.SWAP_FAILED, replica.name, detail)
        else:
            yield Fine(replica.name)


def _replica_behind(sight: Sight) -> Iterator[Found]:
    for found in sight.alive:
        replica = found.replica
        if replica.generation < found.desired_generation or found.runs_another:
            detail = (
                f"{replica.name} runs v{replica.version} of generation {replica.generation}; "
                f"desired is v{found.desired_version} of generation {found.desired_generation}."
            )
            subject, wait = f"generation {replica.generation}", timedelta(seconds=sight.threshold)
            yield Condition(Rule.REPLICA_BEHIND, replica.name, detail, wait, subject)
        else:
            yield Fine(replica.name)


def _accept_length_disagrees(sight: Sight) -> Iterator[Found]:
    compared = [found for found in sight.alive if found.disagreement is not None]
    if not compared:
        raise NoData("no replica has been compared with its engine's metrics")
    for found in compared:
        replica, apart = found.replica, found.disagreement or 0.0
        if found.is_apart(sight.threshold):
            detail = (
                f"{replica.name}: accept length {replica.accept_length:.2f} by Aurora's records, "
                f"{replica.engine_accept_length:.2f} by the engine's metrics ({signed_percent(apart)} over "
                f"{replica.compared_steps:,} steps; more than {sight.threshold:g}% apart, as before)."
            )
            yield Condition(Rule.ACCEPT_LENGTH_DISAGREES, replica.name, detail)
        else:
            yield Fine(replica.name)


def _target_changed(sight: Sight) -> Iterator[Found]:
    for found in sight.alive:
        replica = found.replica
        if found.is_target_untouched is False:
            detail = (
                f"{replica.name}: the target's weights had the checksum {replica.first_target_sha256[:12]} and have "
                f"{replica.target_sha256[:12]} now. Restart it: a draft must never change the target."
            )
            yield Condition(Rule.TARGET_CHANGED, replica.name, detail)
        elif found.is_target_untouched:
            yield Fine(replica.name)


def _target_silent(sight: Sight) -> Iterator[Found]:
    if not sight.of.is_active:
        raise NoData("the target is inactive")
    if not sight.standings:
        raise NoData("no replica has ever reported")
    if not any(found.replica.is_alive for found in sight.standings):
        last = max(found.replica.seen_at for found in sight.standings)
        detail = f"None of {len(sight.standings)} replicas reports; the last report came {last:%H:%M:%S} UTC."
        yield Condition(Rule.TARGET_SILENT, "", detail, timedelta(seconds=sight.threshold))
    else:
        yield Fine("")


def _accept_length_fell(sight: Sight) -> Iterator[Found]:
    levels = accept_levels(sight.of, sight.now)
    known = [level for level in levels if level.ratio.value is not None]
    if not known:
        raise NoData(levels[0].ratio.reason if levels else "nothing was drafted in the last 70 minutes")
    for level in known:
        value, high = level.ratio.value or 0.0, level.ratio.high or 0.0
        if value < 1 - sight.threshold / 100 and high < 1:
            detail = (
                f"{level.domain}: accept length {level.recent:.2f} over the last 10 minutes, {level.earlier:.2f} in "
                f"the hour before ({signed_percent(value - 1)}, at best {signed_percent(high - 1)})."
            )
            yield Condition(Rule.ACCEPT_LENGTH_FELL, level.domain, detail, timedelta(seconds=60))
        else:
            yield Fine(level.domain)


def _speedup_below_one(sight: Sight) -> Iterator[Found]:
    since = (sight.now - RECENT).timestamp()
    speedup = metrics.total(sight.of, since)["speedup"]
    if speedup["value"] is None:
        raise NoData(speedup["reason"])
    if speedup["high"] < sight.threshold:
        detail = (
            f"Speedup {speedup['value']:.2f} ({speedup['low']:.2f} to {speedup['high']:.2f}) over the last 10 minutes: "
            f"even the interval's upper end is below {sight.threshold:g}."
        )
        yield Condition(Rule.SPEEDUP_BELOW_ONE, "", detail, timedelta(seconds=60))
    else:
        yield Fine("")


def _trainer_stalled(sight: Sight) -> Iterator[Found]:
    if not sight.of.is_active:
        raise NoData("the target is inactive: nothing is trained")
    if not is_work_waiting(sight.of):
        yield Fine("")
        return
    run = active_run(sight.of)
    silence = (sight.now - last_sign_of_life(run)).total_seconds()
    if silence > sight.threshold:
        last = run.slices.first()
        why = "no slice was started" if last is None else f"the last slice is {last.state}"
        if last is not None and last.state == SliceState.FAILED and last.error:
            why = f"the last slice failed: {_why(last.error.splitlines()[0][:200])}"
        detail = f"Traces wait, but no slice has worked for {silence:,.0f} s; {why}."
        yield Condition(Rule.TRAINER_STALLED, "", detail, subject=why)
    else:
        yield Fine("")


def _spool_growing(sight: Sight) -> Iterator[Found]:
    for found in sight.alive:
        replica = found.replica
        if replica.spool_bytes > sight.threshold * MIB:
            detail = (
                f"{replica.name}: {replica.spool_bytes / MIB:,.0f} MiB of announcements wait on its disk, more than "
                f"{sight.threshold:g} MiB: the console does not take them as fast as they come."
            )
            yield Condition(Rule.SPOOL_GROWING, replica.name, detail)
        else:
            yield Fine(replica.name)


def _disk_low(sight: Sight) -> Iterator[Found]:
    seen: set[int] = set()
    for name in ("SEGMENTS_DIR", "VERSIONS_DIR", "STATE_DIR"):
        path = Path(getattr(settings, name))
        if not path.exists() or path.stat().st_dev in seen:
            continue  # not there yet, or on a disk that was looked at
        seen.add(path.stat().st_dev)
        usage = shutil.disk_usage(path)
        free = 100 * usage.free / usage.total
        if free < sight.threshold:
            detail = (
                f"{path}: {usage.free / 1024 / MIB:,.1f} GiB of {usage.total / 1024 / MIB:,.1f} GiB are free "
                f"({free:.1f}%, less than {sight.threshold:g}%)."
            )
            yield Condition(Rule.DISK_LOW, str(path)[:200], detail)
        else:
            yield Fine(str(path)[:200])
    if not seen:
        raise NoData(f"{settings.STATE_DIR} does not exist on this machine")


def _figures_stalled(sight: Sight) -> Iterator[Found]:
    since = metrics.waiting_since()
    late = (sight.now - since).total_seconds() if since else 0.0
    if since and late > sight.threshold:
        detail = (
            f"Counts that came at {since:%Y-%m-%d %H:%M:%S} UTC wait to be summed: figures and charts of all "
            "targets are of before. The worker's log says why."
        )
        yield Condition(Rule.FIGURES_STALLED, "", detail)
    else:
        yield Fine("")


# What matters most comes first, here and on the page.
SPECS: dict[Rule, Spec] = {
    spec.rule: spec
    for spec in (
        Spec(Rule.TARGET_CHANGED, "A replica's target weights are not what they were.", _target_changed,
             needs_only_reports=True),
        Spec(Rule.TARGET_SILENT, "An active target had replicas, and none has reported for so long.", _target_silent,
             60, "seconds", 10, 86400),
        Spec(Rule.SPEEDUP_BELOW_ONE, "The whole 95 % interval of the measured speedup is below this.",
             _speedup_below_one, 1.0, "times", 0.5, 2.0),
        Spec(Rule.ACCEPT_LENGTH_FELL, "A domain's accept length fell by this much against the hour before.",
             _accept_length_fell, 15, "percent", 1, 90),
        Spec(Rule.SWAP_FAILED, "A replica could not swap, or went back by itself.", _swap_failed,
             needs_only_reports=True),
        Spec(Rule.REPLICA_BEHIND, "A replica has run an older generation or another version than desired for so long.",
             _replica_behind, CATCH_UP.total_seconds(), "seconds", 10, 86400, needs_only_reports=True),
        Spec(Rule.CAPTURE_BROKEN, "A replica serves, but keeps no traces.", _capture_broken, needs_only_reports=True),
        Spec(Rule.ACCEPT_LENGTH_DISAGREES,
             "Our accept length and the engine's own differ by more than this, in two comparisons in a row.",
             _accept_length_disagrees, 5, "percent", 0.1, 100, needs_only_reports=True),
        Spec(Rule.TRAINER_STALLED, "Traces wait, but no training slice has worked for so long.", _trainer_stalled,
             120, "seconds", 10, 86400),
        Spec(Rule.SPOOL_GROWING, "A replica holds more announcements that the console has not taken.", _spool_growing,
             256, "MiB", 1, 1e6, needs_only_reports=True),
    )
}  # fmt: skip
CONSOLE_SPECS: dict[Rule, Spec] = {
    Rule.DISK_LOW: Spec(
        Rule.DISK_LOW, "Less than this is free on a disk of the state directory.", _disk_low, 10, "percent", 0.1, 90
    ),
    Rule.FIGURES_STALLED: Spec(
        Rule.FIGURES_STALLED, "Counts have come in and have not been summed for so long.", _figures_stalled,
        60, "seconds", 10, 86400,
    ),
}  # fmt: skip
