"""Which port each engine of this machine listens on; remembered, so that clients keep their address."""

from __future__ import annotations

import json
import socket
from pathlib import Path


def is_free(host: str, port: int) -> bool:
    """Whether something could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class EnginePorts:
    """Ports by target slug, kept in a file; the first target gets the first port."""

    def __init__(self, file: Path, host: str, first: int, taken: frozenset[int]) -> None:
        self.file = file
        self.host = host
        self.first = first
        self.taken = taken
        kept: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
        self._ports = kept if kept and min(kept.values()) == first else {}  # another first port: number them anew

    def port_for(self, slug: str) -> int:
        """The port of a target; chosen and written down at the first call. Raises OSError when none is free."""
        if slug not in self._ports:
            used = self.taken | set(self._ports.values())
            candidates = (port for port in range(self.first, 65536) if port not in used and is_free(self.host, port))
            port = next(candidates, None)
            if port is None:
                raise OSError(f"no free port from {self.first} on for the engine of {slug}")
            self._ports[slug] = port
            unfinished = self.file.with_suffix(".new")
            unfinished.write_text(json.dumps(self._ports))
            unfinished.replace(self.file)
        return self._ports[slug]
