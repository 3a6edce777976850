"""The mix of the traffic: what it is now, and when it shifted (a pure function over chart points)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.db.models import Sum
from django.utils import timezone

from aurora_web.metrics.models import MetricWindow
from aurora_web.numbers import percent
from aurora_web.registry.models import Target

MIN_DISTANCE = 0.3  # share of the requests that went to another domain
MIN_REQUESTS = 30  # on either side
SIDE_SECONDS = 120.0  # what is compared before and after a moment, at least
NOW_REQUESTS = 100  # the latest requests are so many ...
NOW = timedelta(hours=1)  # ... and none older than this


def latest_requests(target: Target) -> Counter[str]:
    """How many of the latest finished requests were of each domain, whole windows at a time; empty without traffic."""
    since = timezone.now() - NOW
    served = MetricWindow.objects.filter(target=target, started_at__gte=since).exclude(version=0)  # no control blocks
    windows = served.order_by("-started_at")
    found, moment = Counter[str](), None
    for at, domain, num_requests in windows.values_list("started_at", "domain").annotate(n=Sum("num_requests")):
        if at != moment and found.total() >= NOW_REQUESTS:
            break
        moment = at
        found[domain] += num_requests
    return found


def shifts(points: Sequence[Mapping[str, Any]], bucket: int) -> list[dict[str, Any]]:
    """Moments at which the mix of domains changed: ``[{"at", "distance", "text"}]``, oldest first.

    The distance is the total variation between the mixes of two spans on either side of the moment; of neighbouring
    moments the one with the largest distance is taken.
    """
    by_bucket: dict[int, Counter[str]] = {}
    for point in points:
        mix = by_bucket.setdefault(round(point["at"] / bucket), Counter())
        mix[point["domain"]] += point["num_requests"]
    if not by_bucket:
        return []
    span = max(1, round(SIDE_SECONDS / bucket))
    measured = [_compare(by_bucket, i, span) for i in range(min(by_bucket) + 1, max(by_bucket) + 1)]
    peaks = [
        (i, found)
        for i, found in enumerate(measured)
        if found[0] >= MIN_DISTANCE and found[0] >= max(d for d, _ in measured[max(0, i - span) : i + span + 1])
    ]
    return _apart([(min(by_bucket) + 1 + i, *found) for i, found in peaks], span, bucket)


def _compare(by_bucket: Mapping[int, Counter[str]], moment: int, span: int) -> tuple[float, str]:
    before = _added(by_bucket, range(moment - span, moment))
    after = _added(by_bucket, range(moment, moment + span))
    num_before, num_after = before.total(), after.total()
    if min(num_before, num_after) < MIN_REQUESTS:
        return 0.0, ""
    names = dict.fromkeys([*before, *after])
    changes = {name: after[name] / num_after - before[name] / num_before for name in names}
    most = max(changes, key=lambda name: abs(changes[name]))
    old, new = before[most] / num_before, after[most] / num_after
    return sum(
        map(abs, changes.values())
    ) / 2, f"traffic shifted: {most} went from {percent(old, 0)} to {percent(new, 0)} of requests"


def _added(by_bucket: Mapping[int, Counter[str]], numbers: Iterable[int]) -> Counter[str]:
    total = Counter[str]()
    for i in numbers:
        total.update(by_bucket.get(i, {}))
    return total


def _apart(peaks: Sequence[tuple[int, float, str]], span: int, bucket: int) -> list[dict[str, Any]]:
    """One of equal neighbours."""
    kept: list[dict[str, Any]] = []
    for moment, distance, text in peaks:
        at = float(moment * bucket)
        if not kept or at - kept[-1]["at"] > span * bucket:
            kept.append({"at": at, "distance": distance, "text": text})
    return kept
