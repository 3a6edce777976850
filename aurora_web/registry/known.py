"""Is what somebody wants to register there already, from the same origin? Then it is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aurora_web.registry import packages
from aurora_web.registry.compatibility import slug_of
from aurora_web.registry.models import Source, Target


def known_target(given: Mapping[str, Any]) -> Target | None:
    """The target that a registration has made before; ``given``: what ``services.propose`` takes.

    None where there is none of that slug, or one of another model.
    """
    path, model_id = _directory(given.get("path", "")), given.get("model_id", "")
    reported, _, _ = given.get("replica", "").partition("/")
    source = given.get("source", Source.EMBEDDED)
    slug = given.get("slug") or reported or slug_of(Path(path).name if path else model_id.split("/")[-1])
    found = Target.objects.filter(slug=slug.replace("\0", ""), source=source).first()
    if found is None:
        return None
    if reported:  # every server that was started with this slug is the target's now, whatever it serves
        return found if found.slug == reported and source == Source.SGLANG and not (path or model_id) else None
    return found if found.origin == (path or model_id) else None


def _directory(path: str) -> str:
    """As a target keeps it: the named package's own, or the directory behind all links."""
    if packages.is_name(path):
        package = packages.find(path)
        path = package.path if package is not None else path
    return str(Path(path).expanduser().resolve()) if path and "\0" not in path else ""
