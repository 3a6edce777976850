"""Small pictures as SVG, made on the server: a line over time, and shares in one bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from speculators.records import NO_DRAFT

WIDTH, HEIGHT, MARGIN = 240.0, 44.0, 3.0
MIN_SPREAD = 0.2  # of the value: noise must not look like a mountain
NUM_SHARES = 4
CONTROL = "control"
NO_VERSIONS = {0: CONTROL, NO_DRAFT: "no draft yet"}  # as static/js/charts.js calls them


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A polyline in a box of WIDTH x HEIGHT, and the same in words."""

    points: str
    words: str

    @property
    def svg(self) -> SafeString:
        return format_html(
            '<svg class="spark" viewBox="0 0 240 44" preserveAspectRatio="none" role="img" aria-label="{0}">'
            '<title>{0}</title><polyline points="{1}"/></svg>',
            self.words,
            self.points,
        )


def sparkline(values: Sequence[tuple[float, float]], since: float, until: float) -> Sparkline | None:
    """The line through (at, value); None for fewer than two points."""
    if len(values) < 2:
        return None
    ys = [value for _, value in values]
    low, high = min(ys), max(ys)
    spread = max(high - low, MIN_SPREAD * abs(high), 1e-9)
    right, down = (WIDTH - 2 * MARGIN) / (until - since), (HEIGHT - 2 * MARGIN) / spread
    top = HEIGHT / 2 + down * (low + high) / 2
    inside = [(min(max(at, since), until) - since, value) for at, value in values]
    points = " ".join(f"{MARGIN + right * x:.1f},{top - down * y:.1f}" for x, y in inside)
    words = f"accept length over {(until - since) / 60:.0f} minutes: from {ys[0]:.2f} to {ys[-1]:.2f}"
    return Sparkline(points, words)


@dataclass(frozen=True, slots=True)
class Share:
    """One part of a bar of width 100."""

    name: str
    x: float
    width: float
    number: int  # which colour

    @property
    def words(self) -> str:
        return f"{self.name} {self.width:.0f} %"


def version_name(number: int) -> str:
    """What a count's version is called, which may be none."""
    return NO_VERSIONS.get(number, f"v{number}")


def shares(tokens: Mapping[int, int]) -> tuple[Share, ...]:
    """Versions by their tokens, newest first, then the control; beyond NUM_SHARES they are one part."""
    total = sum(tokens.values())
    if not total:
        return ()
    ranked = sorted((v for v in tokens if v > 0), key=lambda v: -tokens[v])
    shown, others = sorted(ranked[:NUM_SHARES], reverse=True), ranked[NUM_SHARES:]
    parts = [(version_name(v), tokens[v]) for v in shown]
    if others:
        parts.append(("older", sum(tokens[v] for v in others)))
    parts += [(name, tokens[v]) for v, name in NO_VERSIONS.items() if tokens.get(v)]
    found, x = [], 0.0
    for i, (name, n) in enumerate(parts):
        width = 100 * n / total
        found.append(Share(name, round(x, 2), round(width, 2), 0 if name == CONTROL else i % 6 + 1))
        x += width
    return tuple(found)


def share_bar(parts: Sequence[Share]) -> SafeString:
    """The bar, and its key below; nothing for no parts."""
    if not parts:
        return SafeString("")
    return format_html(
        '<svg class="share" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">{}</svg>\n'
        '  <p class="shares">Tokens: {}</p>',
        format_html_join(
            "",
            '<rect class="series-{}" x="{}" y="0" width="{}" height="4"/>',
            ((part.number, part.x, part.width) for part in parts),
        ),
        format_html_join(" ", '<span class="key series-{}">{}</span>', ((part.number, part.words) for part in parts)),
    )
