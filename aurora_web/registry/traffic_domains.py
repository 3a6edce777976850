"""Domains that ``python -m serving.traffic`` has prompts of; the web cannot import them, so a test compares the two."""

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError

REAL = ("explain_code", "write_code", "rewrite_docs", "sql_schema", "extract_json", "chat")  # what an empty mix means
POCKET = ("arithmetic", "sql", "json_tools")  # what the pocket target was trained on
KNOWN = (*REAL, *POCKET)


def validate_known(mix: Mapping[str, Any]) -> None:
    """For forms: the generator would leave out a domain that it does not know, and nobody would see it."""
    unknown = [name for name in mix if name not in KNOWN]
    if unknown:
        raise ValidationError(f"{unknown[0]!r:.100}: there are no prompts of it; known are {', '.join(KNOWN)}")
