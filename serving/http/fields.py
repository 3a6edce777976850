"""Reading one field of a JSON body: the value, or an ApiError that names the field and what would be right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from serving.http.errors import ApiError

SURROGATE = re.compile("[\ud800-\udfff]")


def refuse(field: str, value: Any, expected: str) -> ApiError:
    """The error for a field that cannot be served."""
    return ApiError(f"{field}={value!r:.80} is not supported: expected {expected}", param=field)


def integer(body: Mapping[str, Any], field: str, default: int | None, low: int, high: int) -> int | None:
    """An integer in [low, high]; null and absent give the default. Raises ApiError."""
    value = body.get(field)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise refuse(field, value, f"an integer between {low} and {high}")
    return value


def number(body: Mapping[str, Any], field: str, default: float, low: float, high: float) -> float:
    """A number in [low, high]; null and absent give the default. Raises ApiError."""
    value = body.get(field)
    if value is None:
        return default
    if type(value) not in (int, float) or not low <= value <= high:
        raise refuse(field, value, f"a number between {low:g} and {high:g}")
    return float(value)


def boolean(body: Mapping[str, Any], field: str) -> bool:
    """A boolean; null and absent give False. Raises ApiError."""
    value = body.get(field)
    if value is None:
        return False
    if type(value) is not bool:
        raise refuse(field, value, "true or false")
    return value


def flag(headers: Mapping[str, str], name: str) -> bool | None:
    """A header that says yes or no; None where it is not there. Raises ApiError."""
    value = headers.get(name)
    if value is None:
        return None
    word = value.strip().lower()
    if word not in ("1", "true", "0", "false"):
        raise refuse(name, value, "1 or 0")
    return word in ("1", "true")


def stop_strings(body: Mapping[str, Any], most: int = 16) -> tuple[str, ...]:
    """``stop``: a string, or up to ``most`` of them. Raises ApiError."""
    value = body.get("stop")
    if value is None:
        return ()
    strings = [value] if isinstance(value, str) else value
    is_list = isinstance(strings, list) and all(isinstance(s, str) and s for s in strings)
    if not is_list or len(strings) > most:
        raise refuse("stop", value, f"a string that is not empty, or a list of up to {most} of them")
    return tuple(strings)


def encodable(field: str, text: str) -> None:
    """Refuse text that no encoding has: JSON can write half of a surrogate pair. Raises ApiError."""
    if SURROGATE.search(text):
        raise refuse(field, text, "text without lone surrogates (\\ud800 to \\udfff)")


def only_neutral(body: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse options that would change the answer and that this engine does not have, unless they ask for nothing."""
    for field, values in neutral.items():
        value = body.get(field)
        if value is not None and not any(type(value) is type(v) and value == v for v in values):
            raise refuse(field, value, " or ".join(repr(v) for v in values) + ", or none")
