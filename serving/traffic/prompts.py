"""Prompts of every domain, none of them twice while the process runs."""

from __future__ import annotations

from collections.abc import Iterator

from serving.traffic.domains.base import Prompt
from serving.traffic.domains.registry import get_domain

SEED_MODULUS = 10**9  # the pocket target is trained on seeds from here on


class Prompts:
    """What this process has not sent before; after a restart another seed (its time) may draw some of it again."""

    def __init__(self, seed: int) -> None:
        self._seed = seed % SEED_MODULUS
        self._sources: dict[str, Iterator[Prompt]] = {}

    def next(self, domain: str) -> Prompt:
        """The next one of a domain. Raises ValueError for a domain that nobody knows."""
        if domain not in self._sources:
            self._sources[domain] = get_domain(domain).prompts(self._seed)
        return next(self._sources[domain])
