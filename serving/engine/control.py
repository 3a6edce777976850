"""The control: blocks of steps in which a batch is decoded without speculation, drawn by lot (docs/decisions/007).

Used by one thread.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from serving.engine.api import Part

BLOCK_STEPS = 8


@dataclass(slots=True)
class Tally:
    """Steps without speculation: of one domain in one block, or of one request."""

    num_steps: int = 0
    seconds: float = 0.0
    batch_size_sum: int = 0

    def add(self, seconds: float, batch_size: int) -> None:
        self.num_steps += 1
        self.seconds += seconds
        self.batch_size_sum += batch_size

    def part(self) -> Part:
        """One unit of the control's interval: steps of a block share their time, so a block is not many units."""
        mean = self.batch_size_sum / self.num_steps
        return Part(0, 0, mean, self.num_steps, 0, 0, self.num_steps, self.seconds, self.num_steps)


class ControlBlocks:
    """The lottery, and what the block that runs has added up to; ``on_part`` is told (domain, part) at its end."""

    def __init__(self, share: float, seed: int | None, on_part: Callable[[str, Part], None]) -> None:
        self.share = share
        self.on_part = on_part
        self._lottery = random.Random(seed)
        self._num_left = 0
        self._is_control = False
        self._tallies: dict[str, Tally] = {}

    def draw(self) -> bool:
        """Whether the step that is about to run belongs to the control; ask once per step of what is compared."""
        if self._num_left == 0:
            self.close()
            self._num_left = BLOCK_STEPS
            self._is_control = self._lottery.random() < self.share
        self._num_left -= 1
        return self._is_control

    def count(self, domain: str, seconds: float, batch_size: int) -> None:
        """A request of this domain took part in a step of the control."""
        self._tallies.setdefault(domain, Tally()).add(seconds, batch_size)

    def close(self) -> None:
        """Tell what there is; the next step begins another block."""
        tallies, self._tallies, self._num_left = self._tallies, {}, 0
        for domain, tally in tallies.items():
            self.on_part(domain, tally.part())
