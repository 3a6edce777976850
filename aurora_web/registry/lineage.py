"""Who descends from whom, as a picture: a pure layout of versions on columns (their order) and lanes (branches)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aurora_web.registry.models import SpeculatorVersion

COLUMN, LANE, LEFT, TOP, RADIUS = 64, 46, 36, 30, 13  # pixels


@dataclass(frozen=True, slots=True)
class Node:
    """One version; ``is_stub`` = a parent that is not itself on the page."""

    number: int
    status: str
    parent: int | None
    x: int
    y: int
    is_stub: bool

    @property
    def label(self) -> str:
        """For people who cannot see the picture."""
        origin = f"from v{self.parent}" if self.parent else "without a parent"
        return f"v{self.number}, {self.status.replace('_', ' ')}, {origin}"


@dataclass(frozen=True, slots=True)
class Edge:
    """A curve from parent to child, as the d of an SVG path."""

    path: str


@dataclass(frozen=True, slots=True)
class Lineage:
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    width: int
    height: int


def lineage(versions: Sequence[SpeculatorVersion]) -> Lineage:
    """Oldest to newest from left to right; a first child stays on its parent's lane, each other one takes a new one.

    Needs ``parent`` to be selected with each version.
    """
    shown = {version.number: version for version in versions}
    stubs = {v.parent.number: v.parent for v in versions if v.parent is not None and v.parent.number not in shown}
    ordered = sorted([*shown.values(), *stubs.values()], key=lambda v: v.number)
    lanes: dict[int, int] = {}
    heads: dict[int, int] = {}  # lane -> the version that ends it
    nodes: dict[int, Node] = {}
    for column, version in enumerate(ordered):
        parent = version.parent.number if version.number in shown and version.parent is not None else None
        lane = _lane(parent, lanes, heads)
        lanes[version.number], heads[lane] = lane, version.number
        x, y = LEFT + column * COLUMN, TOP + lane * LANE
        nodes[version.number] = Node(version.number, version.status, parent, x, y, version.number in stubs)
    edges = tuple(Edge(_curve(nodes[n.parent], n)) for n in nodes.values() if n.parent is not None)
    width = LEFT * 2 + max(0, len(nodes) - 1) * COLUMN
    height = TOP * 2 + max(0, len(heads) - 1) * LANE + 16
    return Lineage(tuple(nodes.values()), edges, width, height)


def _lane(parent: int | None, lanes: dict[int, int], heads: dict[int, int]) -> int:
    """The parent's lane when nobody has continued it, else the first that is free from the parent's column on."""
    if parent is None:
        return len(heads)
    if heads[lanes[parent]] == parent:
        return lanes[parent]
    return next((lane for lane, head in heads.items() if head < parent), len(heads))


def _curve(parent: Node, child: Node) -> str:
    start, end = parent.x + RADIUS, child.x - RADIUS
    if parent.y == child.y:
        return f"M{start} {parent.y}H{end}"
    middle = start + COLUMN // 3
    return f"M{start} {parent.y}C{middle} {parent.y} {start} {child.y} {start + COLUMN // 2} {child.y}H{end}"
