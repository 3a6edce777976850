"""What the replicas report and what follows: reverts, dead replicas, candidates nobody judged, old files."""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet, Sum
from django.utils import timezone

from aurora_web import live
from aurora_web.duties import apart
from aurora_web.metrics.capture import add_capture, since_last_report
from aurora_web.metrics.models import MetricWindow
from aurora_web.registry.models import SpeculatorVersion, Status, Target
from aurora_web.registry.services import find_target
from aurora_web.retention.services import kept
from aurora_web.rollouts import alerts, canaries, notifications
from aurora_web.rollouts.counters import COMPARED_FOR_SECONDS, Counters, compare, traces_per_second
from aurora_web.rollouts.fleet import blames_version, disagreement, standing, standing_payload
from aurora_web.rollouts.intent import RolloutError, desired_state, lock_deployment
from aurora_web.rollouts.models import Deployment, Replica
from aurora_web.rollouts.services import judge, revert, take_next
from aurora_web.rollouts.swaps import record_arrival
from aurora_web.traces.codec import count, finite, moment, text
from speculators.records import LONGEST_DETAIL, LONGEST_HOST, LONGEST_SHA256, DesiredState, ObservedState, RecordError

log = logging.getLogger(__name__)
CAPTURE_STATES = ("working", "off", "broken")
COUNTERS = (
    "num_dropped_traces",
    "spool_bytes",
    "num_traces",
    "queue_bytes",
    "num_verify_steps",
    "num_accept_tokens",
    "engine_num_verify_steps",
    "engine_num_accept_tokens",
)
STATES = ("starting", "serving", "swapping", "swap_failed", "reverted")
KEPT_RETIRED = 3  # the newest ones that served: somebody who rolls back may want to go further back
WATCH = timedelta(minutes=5)  # how long after a swap the windows are watched for a collapse
MIN_WATCH_STEPS = 200
LEAST_LOSS = 0.2  # tokens per step; a smaller loss is noise
COMPARED_FOR = timedelta(seconds=COMPARED_FOR_SECONDS)
NOT_COMPARED = {
    "accept_length": None,
    "engine_accept_length": None,
    "compared_steps": 0,
    "compared_at": None,
    "disagreement_before": None,
}
LEFT_SHARE = 0.5  # a swap has collapsed when less of the gain (accept_length - 1) before it is left in the same domains


def observe(state: ObservedState) -> DesiredState:
    """Record what a replica runs, undo a swap that it says has failed, and answer with the intent for this replica.

    Raises RecordError, registry.services.UnknownTarget, RolloutError for a name that another server reports under.
    """
    target = find_target(state.target)
    replica, has_news = _store(target, state)
    found = standing(replica)
    live.publish(target.pk, "replica", standing_payload(found))
    if has_news:
        record_arrival(replica, found.desired_version, found.desired_generation)
    if state.state in {"reverted", "swap_failed"}:
        _undo(target, replica, state)
    if has_news:
        alerts.evaluate(target, timezone.now(), only_reports=True)
    return desired_state(target, replica)


@transaction.atomic
def _store(target: Target, state: ObservedState) -> tuple[Replica, bool]:
    """The replica's row, and whether it tells something that an alert may be about."""
    fields = _checked(state)
    known = Replica.objects.select_for_update().filter(target=target, name=state.replica).first()
    _check_name(known, state)
    fields |= _derived(known, state)
    kept = since_last_report(known.num_traces if known else None, state.num_traces)
    dropped = since_last_report(known.num_dropped_traces if known else None, state.num_dropped_traces)
    add_capture(target, timezone.now(), kept, dropped)
    replica, _ = Replica.objects.update_or_create(target=target, name=state.replica, defaults=fields)
    watched = ("is_alive", "state", "capture_state", "generation", "version", "compared_at", "target_sha256")
    return replica, known is None or any(getattr(known, name) != getattr(replica, name) for name in watched)


def _check_name(known: Replica | None, state: ObservedState) -> None:
    """Two servers with one launch command would be one replica that runs now this and now that.

    One that was started again elsewhere is heard once its former self counts as silent.
    """
    timeout = timedelta(seconds=settings.REPLICA_TIMEOUT_SECONDS)
    if known is None or timezone.now() - known.seen_at > timeout:
        return
    is_same_host = known.host == state.host or not known.host or not state.host  # an older plugin names none
    if known.url == state.url and is_same_host:
        return
    here, there = _address(known.url, known.host), _address(state.url, state.host)
    taken = f"replica {state.replica} is the server at {here}, which has just reported"
    log.warning("%s; the one at %s is not heard", taken, there)
    raise RolloutError(f"{taken}: start the one at {there} with an AURORA_REPLICA of its own")


def _address(url: str, host: str) -> str:
    """With the machine, since the launch command says loopback everywhere."""
    return f"{url} on {host}" if host else url


def _derived(known: Replica | None, state: ObservedState) -> dict[str, Any]:
    """What follows from this report and the ones before it: rates, the comparison, the target's first checksum."""
    now = Counters.of(state)
    marks = {name: Counters(**mark) for name, mark in (known.marks if known else {}).items()}
    has_restarted = any(mark.has_restarted(now) for mark in marks.values())
    if has_restarted := has_restarted or state.state == "starting":
        marks = {}
    marks = {name: mark for name, mark in marks.items() if mark.at <= now.at}
    rate_mark, compare_mark = marks.setdefault("rate", now), marks.setdefault("compare", now)
    derived: dict[str, Any] = {}
    if (rate := traces_per_second(rate_mark, now)) is not None:
        marks["rate"] = now
        derived["traces_per_second"] = rate
    if (comparison := compare(compare_mark, now)) is not None:
        marks["compare"] = now
        derived |= {
            "accept_length": comparison.accept_length,
            "engine_accept_length": comparison.engine_accept_length,
            "compared_steps": comparison.num_verify_steps,
            "compared_at": timezone.now(),
            "disagreement_before": _last_disagreement(known),
        }
    elif has_restarted:
        derived |= NOT_COMPARED
    elif known and known.compared_at and timezone.now() - known.compared_at > COMPARED_FOR:
        derived |= NOT_COMPARED | {"disagreement_before": _last_disagreement(known)}
    first = known.first_target_sha256 if known and not has_restarted else ""
    derived["first_target_sha256"] = first or state.target_sha256
    derived["marks"] = {name: mark.to_json() for name, mark in marks.items()}
    return derived


def _last_disagreement(known: Replica | None) -> float | None:
    """Of the last comparison, even where it is too old to be shown: on little traffic the next one takes longer."""
    if known is None:
        return None
    found = disagreement(known)
    return known.disagreement_before if found is None else found


def _undo(target: Target, replica: Replica, state: ObservedState) -> None:
    """A failed swap on the canary ends the canary; elsewhere it undoes the swap, unless a canary is what is new.

    Nothing is undone for a fault of one replica: it stays with what it has, as an alert, until the next generation.
    """
    reason = f"{state.state.replace('_', ' ')} on {state.replica}: {state.detail or 'no reason given'}"
    actor = f"replica {state.replica}"
    deployment = Deployment.objects.filter(target=target).first()
    if deployment is None or not blames_version(replica, deployment, timezone.now()):
        return
    if deployment.canary_id is not None:
        is_undone = replica.is_canary and canaries.fail(target, state.generation, actor, reason)
    else:
        is_undone = revert(target, state.generation, actor, reason)
    if is_undone:
        log.warning("%s: generation %d undone, %s", target.slug, state.generation, reason)


def _checked(state: ObservedState) -> dict[str, Any]:
    where = "ObservedState."
    if state.state not in STATES:
        raise RecordError(f"{where}state: expected one of {', '.join(STATES)}, got {state.state!r:.80}")
    if state.capture_state not in CAPTURE_STATES:
        expected = ", ".join(CAPTURE_STATES)
        raise RecordError(f"{where}capture_state: expected one of {expected}, got {state.capture_state!r:.80}")
    text(state.replica, where + "replica", 200)
    moment(state.reported_at, where + "reported_at")
    return {
        "engine": text(state.engine, where + "engine", 100),
        "url": text(state.url, where + "url", 500),
        "host": _optional(state.host, where + "host", LONGEST_HOST),
        "generation": count(state.generation, where + "generation"),
        "version": count(state.version, where + "version"),
        "state": state.state,
        "capture_state": state.capture_state,
        "swap_ms": finite(state.swap_ms, where + "swap_ms"),
        "probe_accept_length": finite(state.probe_accept_length, where + "probe_accept_length"),
        "probe_num_steps": count(state.probe_num_steps, where + "probe_num_steps"),
        "num_running": count(state.num_running, where + "num_running"),
        "pins_revision": -1 if state.pins_revision == -1 else count(state.pins_revision, where + "pins_revision"),
        "pins_obeyed": [text(kind, where + "pins_obeyed", 32) for kind in state.pins_obeyed],
        "step_seconds": [finite(seconds, where + "step_seconds") for seconds in state.step_seconds],
        "ranks": [text(sha256, where + "ranks", LONGEST_SHA256) for sha256 in state.ranks],
        **{name: _optional(getattr(state, name), where + name, LONGEST_SHA256) for name in ("sha256", "target_sha256")},
        **{
            name: _optional(getattr(state, name), where + name, LONGEST_DETAIL)
            for name in ("detail", "capture_detail", "pins_detail", "policy_detail")
        },
        **{name: count(getattr(state, name), where + name, 2**62) for name in COUNTERS},
        "reported_at": datetime.fromtimestamp(state.reported_at, UTC),
        "seen_at": timezone.now(),
        "is_alive": True,
    }


def _optional(value: str, where: str, most: int) -> str:
    return text(value, where, most) if value else ""


def engine_url(target: Target) -> str:
    """Where the target's traffic goes: the replica seen last; "" when none is alive."""
    replica = target.replicas.filter(is_alive=True).exclude(state="starting").order_by("-seen_at").first()
    return replica.url if replica else ""


def reconcile(now: datetime) -> None:
    """Ten-second duties: dead replicas, candidates nobody judged, collapses, canaries, alerts, old files.

    What raises for one target is logged, and done for all others.
    """
    silent = Replica.objects.filter(
        is_alive=True, seen_at__lt=now - timedelta(seconds=settings.REPLICA_TIMEOUT_SECONDS)
    )
    for replica in silent.select_related("target"):
        with apart(f"replica {replica.name} of {replica.target} is silent"):
            _note_silence(replica)
    for version in SpeculatorVersion.objects.filter(status=Status.CANDIDATE, gate_decision=None):
        with apart(f"judge {version}"):
            judge(version)
    swapped = Deployment.objects.filter(changed_at__gte=now - WATCH, min_accept_length__gt=0)
    for deployment in swapped.select_related("target", "desired"):
        with apart(f"watch the swap of {deployment.target}"):
            _watch(deployment)
    for target in Target.objects.all():
        with apart(f"canary of {target}"):
            if canaries.watch(target, now) is None:
                take_next(target)
        with apart(f"alerts of {target}"):
            alerts.evaluate(target, now)
        with apart(f"old files of {target}"):
            prune(target, now)
    with apart("alerts of the console"):
        alerts.evaluate_console(now)
    with apart("notifications"):
        notifications.resend(now)


def _note_silence(replica: Replica) -> None:
    if Replica.objects.filter(pk=replica.pk, seen_at=replica.seen_at).update(is_alive=False):
        replica.is_alive = False
        live.publish(replica.target_id, "replica", standing_payload(standing(replica)))


def _watch(deployment: Deployment) -> None:
    """Undo a swap after which the measured accept length fell below the threshold of its generation.

    Like is compared with like: in the domains that other versions served shortly before it, and only where most of
    their gain is gone. Traffic that has changed is no fault of the draft, and going back would help nobody.
    """
    if deployment.desired is None:
        return
    number, changed = deployment.desired.number, deployment.changed_at
    windows = MetricWindow.objects.filter(target_id=deployment.target_id, version__gt=0, lookahead__gt=0)
    ours = _by_domain(windows.filter(version=number, started_at__gte=changed))
    before = _by_domain(windows.exclude(version=number).filter(started_at__gte=changed - WATCH, started_at__lt=changed))
    known = [domain for domain in ours if domain in before]
    num_steps = sum(ours[domain][1] for domain in known)
    if num_steps < MIN_WATCH_STEPS:
        return
    accept_length = sum(ours[domain][0] for domain in known) / num_steps
    expected = sum(ours[domain][1] * before[domain][0] / before[domain][1] for domain in known) / num_steps
    most = min(deployment.min_accept_length, 1 + LEFT_SHARE * (expected - 1), expected - LEAST_LOSS)
    if accept_length < most:
        reason = (
            f"accept length {accept_length:.2f} over {num_steps} steps, below {deployment.min_accept_length:.2f}; "
            f"{expected:.2f} in the same domains before it"
        )
        revert(deployment.target, deployment.generation, "watch", reason)


def _by_domain(windows: QuerySet[MetricWindow]) -> dict[str, tuple[int, int]]:
    """{domain: (accept tokens, verify steps)}, of the steps with drafts"""
    plain = F("num_plain_steps")
    sums = (
        windows.order_by()
        .values_list("domain")
        .annotate(tokens=Sum(F("num_accept_tokens") - plain), n=Sum(F("num_verify_steps") - plain))
    )
    return {domain: (tokens, steps) for domain, tokens, steps in sums if steps}


def prune(target: Target, now: datetime) -> int:
    """Delete the files of old versions that nobody needs; the rows stay. Returns how many."""
    with transaction.atomic():
        given_up = _give_up_files(lock_deployment(target), now)  # locked: nobody brings one of them back meanwhile
    for path in given_up:
        if path.is_relative_to(Path(settings.VERSIONS_DIR).resolve()):
            shutil.rmtree(path, ignore_errors=True)
    return len(given_up)


def _give_up_files(deployment: Deployment, now: datetime) -> list[Path]:
    """Say of the versions that nobody needs that their files are deleted; returns the directories."""
    target = deployment.target
    newest = list(target.versions.values_list("pk", flat=True)[: kept().num_versions])
    over = target.versions.filter(
        pruned_at=None, status__in=[Status.REJECTED, Status.RETIRED, Status.ROLLED_BACK]
    ).exclude(pk__in=newest)
    over = over.exclude(pk__in=[pk for pk in (deployment.desired_id, deployment.previous_id) if pk])
    served = target.versions.filter(status=Status.RETIRED).values_list("pk", flat=True)[:KEPT_RETIRED]
    over = over.exclude(pk__in=list(served))
    if target.is_on_sglang:
        over = over.exclude(number=1)  # launch commands name it
    # A copy reads them when its target's version 1 is made.
    over = over.exclude(copies__in=Target.objects.filter(versions=None))
    over = over.exclude(number__in=list(target.replicas.filter(is_alive=True).values_list("version", flat=True)))
    given_up = list(over)
    SpeculatorVersion.objects.filter(pk__in=[version.pk for version in given_up]).update(pruned_at=now)
    return [Path(version.uri).resolve() for version in given_up]
