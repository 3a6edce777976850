"""How shares and counts are written, in sentences as on pages: +57.3 %, −6.7 %, 1,309."""

from __future__ import annotations

SPACE = "\u00a0"  # a number and its unit stay on one line
MINUS = "\u2212"
ARROW = "\u2192"


def percent(share: float, digits: int = 1) -> str:
    """0.123 -> 12.3 %"""
    return _written(f"{share:.{digits}%}")


def signed_percent(share: float, digits: int = 1) -> str:
    """0.1234 -> +12.3 %, -0.0667 -> −6.7 %"""
    return _written(f"{share:+.{digits}%}")


def grouped(count: int) -> str:
    """1309 -> 1,309"""
    return f"{count:,}"


def _written(text: str) -> str:
    return text.replace("%", f"{SPACE}%").replace("-", MINUS)
