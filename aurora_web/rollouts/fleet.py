"""Questions about a replica: does it run what is desired, is that proved, is the target untouched?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from aurora_web.registry.models import SpeculatorVersion, Target
from aurora_web.rollouts.intent import read_intent
from aurora_web.rollouts.models import Deployment, Replica

UNASKED = ("marks", "target__config")  # JSON that no standing is about
WANTED = ("target_id", "generation", "changed_at", "desired__number", "canary__number")
CATCH_UP = timedelta(seconds=60)  # a replica that is behind for longer is an alert
FAILED = ("swap_failed", "reverted")  # states of a replica that does not serve what it was told to
PROBED_STEPS = 64  # verify steps after which the plugin would have gone back by itself


@dataclass(frozen=True, slots=True)
class Standing:
    """One replica beside the intent: what it should run, how far it is, and what it proves."""

    replica: Replica
    desired_generation: int
    desired_version: int
    progress: str  # "down" | "starting" | "catching up" | "behind" | "up to date"
    expected_sha256: str  # of the version that it says it runs; "" = none

    @property
    def is_proven(self) -> bool | None:
        """Every rank holds the file's checksum; None where no draft runs."""
        if not self.expected_sha256:
            return None
        return {self.replica.sha256, *self.replica.ranks} == {self.expected_sha256}

    @property
    def proof(self) -> str:
        """The proof in words."""
        if self.is_proven is None:
            return "no draft in memory"
        if self.is_proven:
            num_ranks = len(self.replica.ranks)
            return f"proved on all {num_ranks} ranks" if num_ranks > 1 else "proved"
        wrong = [str(i) for i, sha256 in enumerate(self.replica.ranks) if sha256 != self.expected_sha256]
        return f"rank {', '.join(wrong)} holds something else" if wrong else "holds something else"

    @property
    def is_target_untouched(self) -> bool | None:
        """The target's weights have the checksum that they had first; None = not measured."""
        if not self.replica.target_sha256:
            return None
        return self.replica.target_sha256 == self.replica.first_target_sha256

    @property
    def runs_another(self) -> bool:
        """It has followed the newest generation, and serves another version than that wants of it."""
        replica = self.replica
        is_there = self.desired_generation > 0 and replica.generation == self.desired_generation
        return is_there and replica.state == "serving" and replica.version != self.desired_version

    @property
    def disagreement(self) -> float | None:
        """Our accept length over the engine's own, minus 1; None = not compared."""
        return disagreement(self.replica)

    def is_apart(self, percent: float) -> bool:
        """Further from the engine's own than that on one side, in the last two comparisons: one alone may be chance."""
        now, before = self.disagreement, self.replica.disagreement_before
        if now is None or before is None:
            return False
        return min(abs(now), abs(before)) * 100 > percent and (now > 0) == (before > 0)


def disagreement(replica: Replica) -> float | None:
    """Our accept length over the engine's own, minus 1, in the last comparison; None = not compared."""
    ours, engines = replica.accept_length, replica.engine_accept_length
    return ours / engines - 1 if ours and engines else None


def standings(target: Target, now: datetime | None = None, deployment: Deployment | None = None) -> list[Standing]:
    """Every replica of a target, by name; who has read its ``deployment`` gives it."""
    if deployment is None:
        deployment = Deployment.objects.filter(target=target).select_related("desired", "canary").first()
    replicas = list(target.replicas.all())
    numbers = {replica.version for replica in replicas}
    digests = dict(target.versions.filter(number__in=numbers).values_list("number", "sha256"))
    return [_standing(replica, deployment, digests, now or timezone.now()) for replica in replicas]


def fleet_standings(now: datetime | None = None) -> list[Standing]:
    """Every replica of every target, by target and name; three queries however many they are."""
    replicas = list(Replica.objects.select_related("target").defer(*UNASKED).order_by("target__slug", "name"))
    wanted = Deployment.objects.select_related("desired", "canary")
    deployments = {row.target_id: row for row in wanted.only(*WANTED)}
    runs = {(replica.target_id, replica.version) for replica in replicas}
    versions = SpeculatorVersion.objects.filter(
        target__in={target for target, _ in runs}, number__in={number for _, number in runs}
    )
    digests: dict[int, dict[int, str]] = {}
    for target_id, number, sha256 in versions.values_list("target_id", "number", "sha256"):
        digests.setdefault(target_id, {})[number] = sha256
    moment = now or timezone.now()
    return [
        _standing(replica, deployments.get(replica.target_id), digests.get(replica.target_id, {}), moment)
        for replica in replicas
    ]


def standing(replica: Replica) -> Standing:
    """One replica beside the intent."""
    deployment = read_intent(replica.target_id, replica)
    versions = SpeculatorVersion.objects.filter(target_id=replica.target_id, number=replica.version)
    return _standing(replica, deployment, dict(versions.values_list("number", "sha256")), timezone.now())


def _standing(replica: Replica, deployment: Deployment | None, digests: dict[int, str], now: datetime) -> Standing:
    wanted = None
    if deployment is not None:
        wanted = deployment.canary if replica.is_canary and deployment.canary else deployment.desired
    found = Standing(
        replica=replica,
        desired_generation=deployment.generation if deployment else 0,
        desired_version=wanted.number if wanted else 0,
        progress="",
        expected_sha256=digests.get(replica.version, ""),
    )
    return replace(found, progress=_progress(found, deployment, now))


def _progress(found: Standing, deployment: Deployment | None, now: datetime) -> str:
    replica = found.replica
    if not replica.is_alive:
        return "down"
    if replica.state == "starting":
        return "starting"
    if deployment is None or (replica.generation >= deployment.generation and not found.runs_another):
        return "catching up" if replica.state == "swapping" else "behind" if replica.state in FAILED else "up to date"
    return "catching up" if now - deployment.changed_at < CATCH_UP else "behind"


def blames_version(replica: Replica, deployment: Deployment, now: datetime) -> bool:
    """Whether the failure that ``replica`` reports says something about the version, or only about that replica.

    What another one serves is sound; where the failure is a collapse, what it has served over a probe. While one is on
    its way the answer waits for it, for a minute: the replica that failed serves what it had meanwhile.
    """
    alive = Replica.objects.filter(target_id=replica.target_id, is_alive=True).exclude(state="starting")
    others = (alive.filter(is_canary=replica.is_canary) if deployment.canary_id else alive).exclude(pk=replica.pk)
    least_steps = PROBED_STEPS if replica.state == "reverted" else 0
    for other in others:
        is_there = other.generation == replica.generation
        if is_there and other.state == "serving" and other.probe_num_steps >= least_steps:
            return False
        if not (is_there and other.state in FAILED) and now - deployment.changed_at < CATCH_UP:
            return False
    return True


def standing_payload(found: Standing) -> dict[str, Any]:
    """A replica as the browsers and the API get it."""
    replica = found.replica
    return {
        "name": replica.name,
        "engine": replica.engine,
        "url": replica.url,
        "host": replica.host,
        "is_alive": replica.is_alive,
        "is_canary": replica.is_canary,
        "state": replica.state,
        "detail": replica.detail,
        "progress": found.progress,
        "generation": replica.generation,
        "desired_generation": found.desired_generation,
        "version": replica.version,
        "desired_version": found.desired_version,
        "sha256": replica.sha256,
        "ranks": replica.ranks,
        "is_proven": found.is_proven,
        "target_sha256": replica.target_sha256,
        "is_target_untouched": found.is_target_untouched,
        "swap_ms": replica.swap_ms,
        "probe_accept_length": replica.probe_accept_length,
        "probe_num_steps": replica.probe_num_steps,
        "num_running": replica.num_running,
        "capture_state": replica.capture_state,
        "capture_detail": replica.capture_detail,
        "num_traces": replica.num_traces,
        "traces_per_second": replica.traces_per_second,
        "num_dropped_traces": replica.num_dropped_traces,
        "queue_bytes": replica.queue_bytes,
        "spool_bytes": replica.spool_bytes,
        "accept_length": replica.accept_length,
        "engine_accept_length": replica.engine_accept_length,
        "compared_steps": replica.compared_steps,
        "pins_revision": replica.pins_revision,
        "pins_obeyed": replica.pins_obeyed,
        "pins_detail": replica.pins_detail,
        "policy_detail": replica.policy_detail,
        "seen_at": replica.seen_at.timestamp(),
    }
