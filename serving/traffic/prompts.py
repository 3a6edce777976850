"""Prompts of every domain, none of them twice until its domain has run out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from serving.traffic.domains.base import MOST_REPEATS, Prompt, Seen, stable_hash
from serving.traffic.domains.registry import get_domain

SEED_MODULUS = 10**9  # the pocket target is trained on seeds from here on
HASH_BYTES = 8
log = logging.getLogger(__name__)


class Prompts:
    """What was not sent before; with a ``file``, which holds 8 bytes of each, not before a restart either.

    A file that cannot be read or written is complained about once and done without.
    """

    def __init__(self, seed: int, file: Path | None = None) -> None:
        self._seed = seed % SEED_MODULUS
        self._sources: dict[str, Iterator[Prompt]] = {}
        self._run_out: set[str] = set()  # domains of which all was sent: looking for more would hold up all traffic
        self._file = file
        self._seen = Seen(self._read())

    def next(self, domain: str) -> Prompt:
        """The next one of a domain. Raises ValueError for a domain that nobody knows."""
        if domain not in self._sources:
            self._sources[domain] = get_domain(domain).prompts(self._seed)
        for _ in range(MOST_REPEATS):
            prompt = next(self._sources[domain])
            if domain in self._run_out:
                return prompt
            if self._seen.is_new(prompt.text):
                self._note(prompt.text)
                return prompt
        log.info("%s has run out: what was sent long ago comes again", domain)
        self._run_out.add(domain)
        return prompt

    def _read(self) -> bytes:
        if self._file is None:
            return b""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a+b") as file:
                file.truncate(file.tell() // HASH_BYTES * HASH_BYTES)  # a write that was cut short
                file.seek(0)
                return file.read()
        except OSError as error:
            self._do_without(error)
            return b""

    def _note(self, text: str) -> None:
        if self._file is None:
            return
        try:
            with self._file.open("ab") as file:
                file.write(stable_hash(text).to_bytes(HASH_BYTES, sys.byteorder))
        except OSError as error:
            self._do_without(error)

    def _do_without(self, error: OSError) -> None:
        log.warning("prompts may come again after a restart: %s cannot be kept: %s", self._file, error)
        self._file = None
