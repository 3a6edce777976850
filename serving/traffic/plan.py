"""What an engine is to get: how many requests at once, of which domains, and when the mix shifts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.traffic.domains.registry import DOMAINS, REAL

log = logging.getLogger(__name__)

Mix = Mapping[str, float]  # domain -> weight
MAX_WEIGHT = 1_000_000  # of one domain; sums of greater ones may be infinite, and nothing can be drawn by them


@dataclass(frozen=True, slots=True)
class Plan:
    """What one engine is to get; made by the console, or by the command line."""

    slug: str
    engine_url: str  # "" = no replica serves it now
    enabled: bool
    concurrency: int
    requests_per_second: float  # 0 = as fast as the concurrency allows
    mix: Mix
    max_tokens: int
    sampled_share: float
    schedule: tuple[tuple[float, Mix], ...] = ()  # (seconds, mix), one after another and then from the start again

    @classmethod
    def from_json(cls, payload: Mapping[str, Any]) -> Plan:
        """Read the console's plan; domains that nobody knows are left out. Raises ValueError naming what is wrong."""
        try:
            schedule = [(float(phase["seconds"]), _known(phase["mix"])) for phase in payload.get("schedule") or ()]
            return cls(
                slug=str(payload["slug"]),
                engine_url=str(payload["engine_url"]).rstrip("/"),
                enabled=bool(payload["enabled"]),
                concurrency=max(1, int(payload["concurrency"])),
                requests_per_second=float(payload["requests_per_second"]),
                mix=_known(payload["mix"]),
                max_tokens=int(payload["max_tokens"]),
                sampled_share=float(payload["sampled_share"]),
                schedule=tuple(phase for phase in schedule if phase[0] > 0),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"traffic plan {payload!r:.200}: {type(error).__name__} {error}") from error

    def mix_at(self, seconds: float) -> Mix:
        """The weights ``seconds`` after the schedule began."""
        if not self.schedule:
            return self.mix
        rest = seconds % sum(length for length, _ in self.schedule)
        for length, mix in self.schedule:
            if rest < length:
                return mix
            rest -= length
        return self.schedule[-1][1]


def or_real(mix: Mix) -> Mix:
    """The mix without domains of weight 0; all domains of real prompts alike where nothing is left."""
    return {name: weight for name, weight in mix.items() if weight > 0} or dict.fromkeys(REAL, 1.0)


def _known(payload: Mapping[str, Any]) -> Mix:
    unknown = payload.keys() - DOMAINS.keys()
    if unknown:
        log.warning("unknown domains %s are left out; known are %s", sorted(unknown), sorted(DOMAINS))
    return or_real({name: _weight(name, weight) for name, weight in payload.items() if name in DOMAINS})


def _weight(name: str, given: Any) -> float:
    weight = float(given)
    if not 0 <= weight <= MAX_WEIGHT:
        raise ValueError(f"the weight of {name} is {weight:g}: expected 0 to {MAX_WEIGHT:,}")
    return weight
