"""Which traces a version learnt from: those that the slices since the version before it have trained on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode
from uuid import UUID

from django.db.models import Count, Max, Min

from aurora_web.registry.models import SpeculatorVersion
from aurora_web.traces.models import Trace
from aurora_web.traces.search import MAX_SLICES
from aurora_web.training.models import SliceState, TrainingSlice


@dataclass(frozen=True, slots=True)
class Learnt:
    """New traces of one version: those still kept, and the bounds of when they began."""

    num_slices: int
    num_traces: int
    first_at: datetime | None
    last_at: datetime | None
    domains: tuple[tuple[str, int], ...]
    slices: tuple[UUID, ...]

    @property
    def query(self) -> str:
        """Of an address that searches for exactly these traces; "" where it would name too many slices."""
        if len(self.slices) > MAX_SLICES:
            return ""
        return urlencode({"slices": ",".join(each.hex for each in self.slices), "state": "trained"}, safe=",")


def learnt_from(version: SpeculatorVersion) -> Learnt | None:
    """None when no slice made the version: it is day 0's, imported, or a script's."""
    own = TrainingSlice.objects.filter(version=version).order_by("-finished_at").first()
    if own is None or own.is_day_zero or own.finished_at is None:
        return None
    before = TrainingSlice.objects.filter(
        run=own.run_id, state=SliceState.DONE, version__isnull=False, finished_at__lt=own.finished_at
    )
    since = before.aggregate(at=Max("finished_at"))["at"]
    slices = TrainingSlice.objects.filter(run=own.run_id, state=SliceState.DONE, finished_at__lte=own.finished_at)
    if since is not None:
        slices = slices.filter(finished_at__gt=since)
    ids = list(slices.values_list("pk", flat=True))
    traces = Trace.objects.filter(lease_id__in=ids, trained_at__isnull=False)
    rows = traces.values("domain").annotate(n=Count("trace_id"), first=Min("started_at"), last=Max("started_at"))
    found = list(rows.order_by("domain"))
    return Learnt(
        num_slices=len(ids),
        num_traces=sum(row["n"] for row in found),
        first_at=min((row["first"] for row in found), default=None),
        last_at=max((row["last"] for row in found), default=None),
        domains=tuple((row["domain"], row["n"]) for row in found),
        slices=tuple(ids),
    )
