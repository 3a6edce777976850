"""How long a change of intent takes until the replicas run it: moments recorded as facts, seconds by subtraction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aurora_web import live
from aurora_web.registry.models import Target
from aurora_web.rollouts.models import Replica, Swap, SwapArrival

SERVING = "serving"


def record_arrival(replica: Replica, desired_version: int, generation: int) -> None:
    """Note that ``replica`` runs what the current generation wants of it, the first time that it says so."""
    if replica.state != SERVING or replica.generation != generation or replica.version != desired_version:
        return
    swap = Swap.objects.filter(target_id=replica.target_id, generation=generation).first()
    if swap is None:
        return
    facts = {"version": replica.version, "at": replica.seen_at, "swap_ms": replica.swap_ms}
    _, is_new = SwapArrival.objects.get_or_create(swap=swap, replica=replica.name, defaults=facts)
    if not is_new:
        return
    there = dict(swap.arrivals.values_list("replica", "at"))
    if swap.completed_at is None and swap.expected and not set(swap.expected) - set(there):
        last = max(there[name] for name in swap.expected)
        Swap.objects.filter(pk=swap.pk, completed_at=None).update(completed_at=last)
    live.publish(swap.target_id, "swap", {"generation": generation, "replica": replica.name})


@dataclass(frozen=True, slots=True)
class SwapProgress:
    """A swap with what the replicas have said about it so far."""

    swap: Swap
    arrivals: tuple[SwapArrival, ...]
    waiting: tuple[str, ...]  # alive when it was wanted, and not there yet

    @property
    def seconds(self) -> float | None:
        """From the intent until the last expected replica reported; None = not yet, or nobody was alive."""
        if self.swap.completed_at is None:
            return None
        return (self.swap.completed_at - self.swap.at).total_seconds()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every replica with its seconds; those that have not reported last."""
        there = [
            {"replica": a.replica, "seconds": _seconds(self.swap.at, a.at), "swap_ms": a.swap_ms, "version": a.version}
            for a in self.arrivals
        ]
        return there + [{"replica": name, "seconds": None, "swap_ms": None, "version": None} for name in self.waiting]

    @property
    def words(self) -> str:
        """``all 3 replicas after 1.4 s``"""
        total = len(self.swap.expected)
        if not total:
            return "no replica was alive; each follows when it reports"
        if self.seconds is not None:
            which = "the replica" if total == 1 else f"all {total} replicas"
            return f"{which} after {self.seconds:.1f} s"
        there = total - len(self.waiting)
        return f"{there} of {total} replicas so far, waiting for {', '.join(self.waiting)}"


def progress(swap: Swap) -> SwapProgress:
    """What is known of a swap; prefetched arrivals are used where there are any."""
    arrivals = tuple(sorted(swap.arrivals.all(), key=lambda arrival: arrival.at))
    there = {arrival.replica for arrival in arrivals}
    return SwapProgress(swap, arrivals, tuple(name for name in swap.expected if name not in there))


def find_swap(target: Target, generation: int) -> Swap | None:
    """The swap of one generation; None when there is none."""
    return Swap.objects.filter(target=target, generation=generation).prefetch_related("arrivals").first()


def recent_swaps(target: Target, limit: int, number: int | None = None) -> list[SwapProgress]:
    """The newest swaps of a target, or those that brought version ``number``."""
    swaps = Swap.objects.filter(target=target).prefetch_related("arrivals")
    if number is not None:
        swaps = swaps.filter(number=number) | swaps.filter(canary_number=number)
    return [progress(swap) for swap in swaps[:limit]]


def latest_arrivals(replicas: Sequence[Replica]) -> dict[tuple[int, str], float]:
    """Seconds from the last intent that a replica has followed until it said so, by (target id, replica)."""
    names = {replica.name for replica in replicas}
    rows = SwapArrival.objects.filter(swap__target__in={r.target_id for r in replicas}, replica__in=names)
    newest = rows.order_by("swap__target_id", "replica", "-swap__generation").distinct("swap__target_id", "replica")
    return {(row.swap.target_id, row.replica): _seconds(row.swap.at, row.at) for row in newest.select_related("swap")}


def swap_payload(found: SwapProgress) -> dict[str, Any]:
    """A swap as the API gives it."""
    swap = found.swap
    return {
        "generation": swap.generation,
        "kind": swap.kind,
        "from": swap.old_number,
        "to": swap.number,
        "canary": swap.canary_number or None,
        "actor": swap.actor,
        "at": swap.at.timestamp(),
        "expected": swap.expected,
        "waiting": list(found.waiting),
        "completed_seconds": found.seconds,
        "replicas": found.rows,
    }


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()
