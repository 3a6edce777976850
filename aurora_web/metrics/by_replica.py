"""Sums per replica over the count rows of a period: what a canary is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, F, FloatField, Q, Sum
from django.db.models.functions import Cast

from aurora_web.metrics.models import CountRow
from aurora_web.metrics.ratios import Moments
from aurora_web.registry.models import Target


@dataclass(frozen=True, slots=True)
class ReplicaSums:
    """One replica, version, domain and batch size."""

    replica: str
    version: int
    domain: str
    batch_bucket: int
    num_requests: int
    speed: Moments  # per request: x = tokens after the first, y = decode seconds
    accept: Moments  # per count row with drafts: x = accept tokens, y = verify steps


def sums_by_replica(target: Target, since: datetime, versions: list[int]) -> list[ReplicaSums]:
    """Sums of the count rows that began after ``since``; requests without speculation are not among them."""
    with_drafts = Q(version__in=[v for v in versions if v], lookahead__gt=0)
    rows = CountRow.objects.filter(with_drafts, target=target, started_at__gte=since)
    keys = rows.values("replica", "version", "domain", "batch_bucket").order_by()
    tokens = Cast(F("num_accept_tokens") - F("num_plain_steps"), FloatField())  # of the steps with drafts
    steps = Cast(F("num_verify_steps") - F("num_plain_steps"), FloatField())
    drafted = Q(num_verify_steps__gt=F("num_plain_steps"))
    return [
        _sums(row)
        for row in keys.annotate(
            n=Sum("num_requests"),
            x=Sum("num_accept_tokens"),
            y=Sum("decode_seconds"),
            xx=Sum("sum_xx"),
            yy=Sum("sum_yy"),
            xy=Sum("sum_xy"),
            rows=Count("id", filter=drafted),
            tokens=Sum(F("num_accept_tokens") - F("num_plain_steps"), filter=drafted),
            steps=Sum(F("num_verify_steps") - F("num_plain_steps"), filter=drafted),
            tokens_squared=Sum(tokens * tokens, filter=drafted),
            steps_squared=Sum(steps * steps, filter=drafted),
            tokens_steps=Sum(tokens * steps, filter=drafted),
        )
    ]


def _sums(row: Mapping[str, Any]) -> ReplicaSums:
    return ReplicaSums(
        replica=row["replica"],
        version=row["version"],
        domain=row["domain"],
        batch_bucket=row["batch_bucket"],
        num_requests=row["n"],
        speed=Moments(row["n"], row["x"], row["y"], row["xx"], row["yy"], row["xy"]),
        accept=Moments(
            row["rows"],
            row["tokens"] or 0,
            row["steps"] or 0,
            row["tokens_squared"] or 0.0,
            row["steps_squared"] or 0.0,
            row["tokens_steps"] or 0.0,
        ),
    )
