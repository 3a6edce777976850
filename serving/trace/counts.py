"""Sums over finished requests or their parts, per (domain, version, lookahead, batch bucket), about once a second."""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass
from typing import NamedTuple

from serving.engine.api import FinishedRequest, Part
from speculators.records import CountWindow


class Key(NamedTuple):
    domain: str
    version: int
    lookahead: int
    batch_bucket: int


@dataclass(slots=True)
class Sums:
    """x: tokens committed after the first one, y: decode seconds, of one request or of one part of it."""

    num_requests: int = 0
    num_verify_steps: int = 0
    num_proposed_drafts: int = 0
    num_correct_drafts: int = 0
    num_accept_tokens: int = 0
    decode_seconds: float = 0.0
    sum_xx: float = 0.0
    sum_yy: float = 0.0
    sum_xy: float = 0.0
    num_plain_steps: int = 0

    def add(self, counted: FinishedRequest | Part) -> None:
        x, y = counted.num_accept_tokens, counted.decode_seconds
        self.num_requests += 1
        self.num_verify_steps += counted.num_verify_steps
        self.num_proposed_drafts += counted.num_proposed_drafts
        self.num_correct_drafts += counted.num_correct_drafts
        self.num_accept_tokens += x
        self.decode_seconds += y
        self.sum_xx += x * x
        self.sum_yy += y * y
        self.sum_xy += x * y
        self.num_plain_steps += counted.num_plain_steps


def batch_bucket(mean_batch_size: float) -> int:
    """The smallest power of two that is not below the mean number of requests per step."""
    return 1 << max(0, math.ceil(math.log2(max(1.0, mean_batch_size))))


def key_of(domain: str, counted: FinishedRequest | Part) -> Key:
    return Key(domain, counted.version, counted.lookahead, batch_bucket(counted.mean_batch_size))


class CountAggregator:
    """The open interval of one replica; used by one thread."""

    def __init__(self, target: str, replica: str, interval_seconds: float = 1.0) -> None:
        self.target = target
        self.replica = replica
        self.interval_seconds = interval_seconds
        self._sums: dict[Key, Sums] = {}
        self._started_at = 0.0
        self._due_at = 0.0  # monotonic

    def add(self, domain: str, counted: FinishedRequest | Part) -> None:
        if not self._sums:
            self._started_at = time.time()
            self._due_at = time.monotonic() + self.interval_seconds
        self._sums.setdefault(key_of(domain, counted), Sums()).add(counted)

    def seconds_until_due(self) -> float | None:
        """Seconds until the interval ends; None while it is empty."""
        return max(0.0, self._due_at - time.monotonic()) if self._sums else None

    def take(self) -> list[CountWindow]:
        """End the interval and return its windows."""
        sums, self._sums = self._sums, {}
        return [self._window(key, total) for key, total in sums.items()]

    def _window(self, key: Key, total: Sums) -> CountWindow:
        return CountWindow(
            window_id=uuid.uuid4().hex,
            target=self.target,
            replica=self.replica,
            domain=key.domain,
            version=key.version,
            lookahead=key.lookahead,
            batch_bucket=key.batch_bucket,
            started_at=self._started_at,
            ended_at=time.time(),
            num_requests=total.num_requests,
            num_verify_steps=total.num_verify_steps,
            num_proposed_drafts=total.num_proposed_drafts,
            num_correct_drafts=total.num_correct_drafts,
            num_accept_tokens=total.num_accept_tokens,
            decode_seconds=total.decode_seconds,
            sum_xx=total.sum_xx,
            sum_yy=total.sum_yy,
            sum_xy=total.sum_xy,
            num_plain_steps=total.num_plain_steps,
        )
