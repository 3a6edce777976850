"""Prompts of every domain, none of them twice."""

from __future__ import annotations

from collections.abc import Iterator

from serving.traffic.domains.base import Prompt
from serving.traffic.domains.registry import get_domain

SEED_MODULUS = 10**9  # the pocket target is trained on seeds from here on


class Prompts:
    """What was not sent before: within a process never, and after a restart by another seed (the time of the start)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed % SEED_MODULUS
        self._sources: dict[str, Iterator[Prompt]] = {}

    def next(self, domain: str) -> Prompt:
        """The next one of a domain. Raises ValueError for a domain that nobody knows."""
        if domain not in self._sources:
            self._sources[domain] = get_domain(domain).prompts(self._seed)
        return next(self._sources[domain])
