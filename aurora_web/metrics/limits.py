"""What one count window can be at most: more is no server's, and sums of it would not fit their columns.

Sums over all targets are made by one statement, so one row that breaks it would stop the figures of everybody.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from aurora_web.metrics.rollups import SUMMED
from aurora_web.traces.codec import count, finite
from speculators.records import CountWindow, RecordError

LARGEST_COUNT = 2**31 - 1  # requests, steps or tokens of about a second
LARGEST_SECONDS = 1e9
# The most of each column; second moments are at most the product of their sums.
LARGEST: dict[str, float] = dict.fromkeys(SUMMED[:6], LARGEST_COUNT) | {
    "decode_seconds": LARGEST_SECONDS,
    "sum_xx": float(LARGEST_COUNT) ** 2,
    "sum_yy": LARGEST_SECONDS**2,
    "sum_xy": LARGEST_COUNT * LARGEST_SECONDS,
}
LARGEST_TOTAL = 2**53  # where counts over many windows stop, so that sums of those fit too
PARTS = (("num_plain_steps", "num_verify_steps"), ("num_correct_drafts", "num_proposed_drafts"))
FUTURE = timedelta(days=1)  # how far ahead of ours a replica's clock may be

# SQL: a count row within all of these. Ingest lets in no other; older rows may wait from before it looked.
FITS = " AND ".join(
    [*(f"{name} <= {most!r}" for name, most in LARGEST.items()), f"ended_at < now() + interval '{FUTURE.days} days'"]
)


def sums_of(window: CountWindow) -> list[float]:
    """The columns SUMMED of a window. Raises RecordError naming what no server can have counted."""
    found: list[float] = [count(getattr(window, name), f"CountWindow.{name}", LARGEST_COUNT) for name in SUMMED[:6]]
    for name in SUMMED[6:]:
        value = finite(getattr(window, name), f"CountWindow.{name}")
        if value > LARGEST[name]:
            raise RecordError(f"CountWindow.{name}: expected at most {LARGEST[name]:g}, got {value:g}")
        found.append(value)
    for part, whole in PARTS:
        most, got = getattr(window, whole), getattr(window, part)
        if got > most:
            raise RecordError(f"CountWindow.{part}: expected at most the {most} of {whole}, got {got}")
    return found


def check_has_been(at: datetime, now: datetime, where: str) -> None:
    """Raises RecordError for a time that no clock can be at yet."""
    if at > now + FUTURE:
        raise RecordError(f"{where}: expected a time that has been, got {at:%Y-%m-%d %H:%M} UTC")


def added(table: str, column: str) -> str:
    """SQL: what ``table`` has and what comes to it; a count that is full stays there and is no error."""
    if not column.startswith("num_"):
        return f"{table}.{column} + excluded.{column}"
    return f"least({table}.{column}::numeric + excluded.{column}, {LARGEST_TOTAL})"
