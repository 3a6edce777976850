"""Which speculator version serves: swap, previous, probe and the engine's own revert. One thread only, but for reads of
single attributes. Shared by the embedded engine and the SGLang plugin: ``D`` is what each of them calls a loaded draft.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from serving.engine.acceptance import Chooser
from serving.engine.api import LoadedDraft, Probe

CHOOSERS_KEPT = 4
NOISE = 0.4  # tokens per step between two probes of the same draft in the same domains: each is a request or two
REMEMBERED = 4  # probes' worth of steps of the version before, for each of its domains to have some
# A domain is known by a fourth of a probe's steps, and a probe compares where so many of its own are known.
LEAST_SHARE = 4
D = TypeVar("D", bound=LoadedDraft)


@dataclass(frozen=True, slots=True, eq=False)
class Served(Generic[D]):
    """A version in service; ``draft`` None = no speculation. The control is a Served of its own."""

    version: int
    draft: D | None

    @property
    def sha256(self) -> str:
        return self.draft.sha256 if self.draft else ""


CONTROL: Served[Any] = Served(0, None)  # requests decoded without speculation, whatever is live


@dataclass(slots=True)
class ProbeCount:
    """Verify steps with drafts since a swap, up to ``wanted``."""

    served: Served[Any]
    wanted: int
    min_accept_length: float
    before: Mapping[str, float] | None  # the version before it: accept length by domain; None = it made too few steps
    num_steps: int = 0
    num_accept_tokens: int = 0
    num_known: int = 0  # of the steps, those in domains that the version before it has served
    known_loss: float = 0.0  # tokens that it would have committed in these, less those that were

    @property
    def is_complete(self) -> bool:
        return self.num_steps >= self.wanted

    @property
    def is_collapsed(self) -> bool:
        """Complete, fewer tokens per step than the least that was asked for, and than the version before it had.

        Like is compared with like, domain by domain. Where the version before had become as bad, or had none of these
        domains, it is the traffic that has changed, and going back would help nobody.
        """
        if not self.is_complete or self.num_accept_tokens >= self.min_accept_length * self.num_steps:
            return False
        if self.before is None:
            return True
        return self.num_known * LEAST_SHARE >= self.num_steps and self.known_loss > NOISE * self.num_known

    def add(self, domain: str, num_steps: int, num_accept_tokens: int) -> None:
        self.num_steps += num_steps
        self.num_accept_tokens += num_accept_tokens
        if self.before is not None and domain in self.before:
            self.num_known += num_steps
            self.known_loss += self.before[domain] * num_steps - num_accept_tokens

    def snapshot(self) -> Probe:
        return Probe(self.served.version, self.num_steps, self.num_accept_tokens, self.is_complete)


class Recent:
    """The last steps of a version, for comparing its successor with; ``wanted``: as many as a probe takes."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._counted: deque[tuple[str, int, int]] = deque()  # (domain, steps, accept tokens), oldest first
        self._num_steps = 0

    def add(self, domain: str, num_steps: int, num_accept_tokens: int) -> None:
        self._counted.append((domain, num_steps, num_accept_tokens))
        self._num_steps += num_steps
        while self._num_steps - self._counted[0][1] >= REMEMBERED * self._wanted:
            self._num_steps -= self._counted.popleft()[1]

    def accept_lengths(self) -> dict[str, float] | None:
        """By domain, of those with enough steps; None with fewer steps in all than wanted."""
        if not 0 < self._wanted <= self._num_steps:
            return None
        steps: dict[str, int] = defaultdict(int)
        tokens: dict[str, int] = defaultdict(int)
        for domain, num_steps, num_accept_tokens in self._counted:
            steps[domain] += num_steps
            tokens[domain] += num_accept_tokens
        return {d: tokens[d] / n for d, n in steps.items() if n * LEAST_SHARE >= self._wanted}


@dataclass(slots=True)
class Versions(Generic[D]):
    """The live version, the one before it, and what was seen of the live one at work."""

    probe_steps: int
    max_lookahead: int
    live: Served[D] = CONTROL
    previous: Served[D] | None = None
    probe: ProbeCount | None = None
    reverted_from: int | None = None
    revert_detail: str = ""
    chooser: Chooser = field(init=False)
    _choosers: dict[str, Chooser] = field(default_factory=dict)  # by checksum: what was seen of weights is kept
    _recent: Recent = field(init=False)  # the live version's last steps with drafts

    def __post_init__(self) -> None:
        self._recent = Recent(self.probe_steps)
        self.chooser = self._choosers[self.live.sha256] = Chooser(self.max_lookahead)

    def swap(self, version: int, draft: D | None, min_accept_length: float) -> None:
        """Serve new requests with this version from now on.

        What is live may be brought in once more, since nobody knew that it had come: what was before it stays.
        """
        served = Served(version, draft)
        before: Mapping[str, float] | None = self._recent.accept_lengths()
        if self._is_live(served):
            before = self.probe.before if self.probe else None
        else:
            self.previous = self.live
        self.reverted_from, self.revert_detail = None, ""
        self._serve(served, min_accept_length, before)

    def revert(self, detail: str) -> None:
        """Back to the previous version. Raises LookupError when there is none."""
        if self.previous is None:
            raise LookupError(f"version {self.live.version} has no previous version in memory")
        self.reverted_from, self.revert_detail = self.live.version, detail
        previous, self.previous = self.previous, None
        self._serve(previous, 0.0, None)

    def observe(
        self, served: Served[D], domain: str, num_proposed: int, num_accept_tokens: int, num_steps: int = 1
    ) -> str:
        """Count verify steps for the probe; returns why the version must be reverted, "" when it need not be."""
        if num_proposed == 0:
            return ""
        if served is self.live:
            self._recent.add(domain, num_steps, num_accept_tokens)
        probe = self.probe
        if probe is None or served is not probe.served or probe.is_complete:
            return ""
        probe.add(domain, num_steps, num_accept_tokens)
        if not probe.is_collapsed or self.previous is None:
            return ""
        measured = probe.num_accept_tokens / probe.num_steps
        asked = f"the least allowed is {probe.min_accept_length:.2f}"
        return f"accept length {measured:.2f} over {probe.num_steps} steps; {asked}"

    def is_probing(self, served: Served[D]) -> bool:
        return self.probe is not None and self.probe.served is served and not self.probe.is_complete

    def _is_live(self, served: Served[D]) -> bool:
        return (served.version, served.sha256) == (self.live.version, self.live.sha256)

    def _serve(self, served: Served[D], min_accept_length: float, before: Mapping[str, float] | None) -> None:
        if not self._is_live(served):
            self._recent = Recent(self.probe_steps)
        self.live, self.chooser = served, self.chooser_of(served)
        self.probe = ProbeCount(served, self.probe_steps, min_accept_length, before) if served.draft else None

    def chooser_of(self, served: Served[D]) -> Chooser:
        """What was seen of these weights; at first, of those that serve."""
        chooser = self._choosers.pop(served.sha256, None) or Chooser(self.max_lookahead, self.chooser)
        self._choosers[served.sha256] = chooser
        while len(self._choosers) > CHOOSERS_KEPT:
            del self._choosers[next(iter(self._choosers))]
        return chooser
