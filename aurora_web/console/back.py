"""Back to the page on which a form was sent, as it was filtered."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse

ONCE = {"pin"}  # opens a form that has just been sent


def back_to(request: HttpRequest, name: str, *args: object, part: str = "") -> HttpResponseRedirect:
    """To the page ``name``; with its query, where the form was sent from there. ``part``: id of an element of it."""
    address = reverse(name, args=args)
    came = urlsplit(request.headers.get("referer", ""))
    kept = [(key, value) for key, value in parse_qsl(came.query) if key not in ONCE] if came.path == address else []
    query = f"?{urlencode(kept)}" if kept else ""
    return HttpResponseRedirect(f"{address}{query}{'#' if part else ''}{part}")
