"""Static files from the checkout, sent packed: a packed copy of each is kept in the state directory.

No collectstatic step that could be forgotten: a copy is made when a process starts and the file has changed since.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.responders import StaticFile

PACKED = (".css", ".js", ".svg", ".json", ".txt", ".map")


class StaticFilesMiddleware(WhiteNoiseMiddleware):  # type: ignore[misc]  # whitenoise has no types
    """WhiteNoise with a gzip copy beside what is worth packing."""

    @staticmethod
    def serve(static_file: StaticFile, request: HttpRequest) -> HttpResponse:
        """The file in one piece: under ASGI Django reads all of a plain file first anyway, and warns of it."""
        found = static_file.get_response(request.method, request.META)
        content = found.file.read() if found.file else b""
        answer = HttpResponse(content, status=int(found.status))
        if found.file:
            found.file.close()
        del answer["content-type"]
        for name, value in found.headers:
            answer[name] = value
        return answer

    def get_static_file(self, path: str, url: str, stat_cache: dict[str, Any] | None = None) -> StaticFile:
        """The file in all its forms; the browser's Accept-Encoding chooses."""
        plain: StaticFile = super().get_static_file(path, url, stat_cache)
        if not path.endswith(PACKED):
            return plain
        found = packed(Path(path))
        stats = {**(stat_cache or {path: os.stat(path)}), str(found): found.stat()}
        headers = [header for header in plain.alternatives[-1][2] if header[0] in ("Content-Type", "Cache-Control")]
        return StaticFile(path, headers, stat_cache=stats, encodings={"gzip": str(found)})


def packed(path: Path) -> Path:
    """The gzip copy of a file, made again when the file is not the one that it was made of."""
    source = path.stat()
    digest = hashlib.sha256(f"{path} {source.st_size} {source.st_mtime_ns}".encode()).hexdigest()
    found = Path(settings.STATIC_PACKED_DIR) / f"{digest[:16]}-{path.name}.gz"
    if not found.exists():
        found.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=found.parent, delete=False) as unfinished:
            unfinished.write(gzip.compress(path.read_bytes(), 6, mtime=0))
        os.replace(unfinished.name, found)  # another process may be making the same
    return found
