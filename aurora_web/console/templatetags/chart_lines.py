"""The lines of the charts' table; joined here, not in a loop of the template: a day has thousands of cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import escape
from django.utils.safestring import SafeString

from aurora_web.console.templatetags.figures import DASH, grouped, rate, ratio, times

register = template.Library()
NUMBER, WORDS = '<td class="n">{}</td>', '<td class="nowrap">{}</td>'
LINE = (
    '<tr><th scope="row" class="nowrap"><time datetime="{}">{}</time></th>'
    f"{NUMBER * 3}{WORDS}{NUMBER * 6}{WORDS}</tr>"
)


@register.simple_tag
def chart_lines(rows: Iterable[Mapping[str, Any]]) -> SafeString:
    """Rows of console.charts.table as ``<tr>`` elements, times in the reader's zone."""
    return SafeString("".join(LINE.format(*_cells(row)) for row in rows))


def _cells(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Numbers, which hold nothing to escape, and one text."""
    at, dropped = timezone.localtime(row["at"]), row["num_dropped_traces"]
    return (
        at.isoformat(),
        f"{at:%m-%d %H:%M:%S %Z}",
        grouped(row["num_requests"]),
        ratio(row["accept_length"]),
        times(row["speedup"]),
        f"{ratio(row['speedup_low'])} to {ratio(row['speedup_high'])}" if row["speedup"] else DASH,
        rate(row["tokens_per_second"]),
        rate(row["control_tokens_per_second"]),
        ratio(row["mean_lookahead"]),
        ratio(row["traces_per_second"]),
        DASH if dropped is None else dropped,
        ratio(row["loss"]),
        escape(row["versions"]),
    )
