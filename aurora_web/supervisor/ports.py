"""Which port each engine of this machine listens on; remembered, so that clients keep their address."""

from __future__ import annotations

import errno
import json
import socket
from pathlib import Path

from aurora_web.environment import wrong


def is_free(host: str, port: int) -> bool:
    """Whether something could listen there now."""
    try:
        _bind(host, port)
    except OSError:
        return False
    return True


def check(prefix: str, host: str, port: int) -> None:
    """Raises ImproperlyConfigured where ``prefix``_HOST or ``prefix``_PORT keeps us from listening there."""
    try:
        _bind(host, port)
    except PermissionError as error:
        raise wrong(f"{prefix}_PORT", str(port), "expected one from 1024 on: those below are root's") from error
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            right = "another program listens there; stop it or choose another port"
            raise wrong(f"{prefix}_PORT", str(port), right) from error
        right = f"expected a name or address of this machine, like 127.0.0.1, 0.0.0.0 or ::1 ({_reason(error)})"
        raise wrong(f"{prefix}_HOST", host, right) from error


def _bind(host: str, port: int) -> None:
    if not host:
        raise OSError("it is empty")
    if "%" in host:
        raise OSError("the address of a page cannot name an interface")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def read(file: Path) -> dict[str, int]:
    """Ports by target slug, as ``EnginePorts`` keeps them."""
    kept: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    return kept


class EnginePorts:
    """Ports by target slug, kept in a file; the first target gets the first port.

    Where another program listens on a kept port, the engine gets the next free one for this time; the kept one stays
    what the next start tries.
    """

    def __init__(self, file: Path, host: str, first: int, taken: frozenset[int]) -> None:
        self.file = file
        self.host = host
        self.first = first
        self.taken = taken
        kept = read(file)
        self._kept = kept if kept and min(kept.values()) == first else {}  # another first port: number them anew
        self._given: dict[str, int] = {}

    def give(self, slug: str) -> int:
        """The port for an engine that is to be started; written down the first time. Raises OSError without one."""
        kept = self._kept.get(slug)
        port = kept if kept is not None and is_free(self.host, kept) else self._next_free(slug)
        if kept is None:
            self._keep(slug, port)
        self._given[slug] = port
        return port

    def given(self, slug: str) -> int:
        """The port that the engine was given last."""
        return self._given[slug]

    def kept(self, slug: str) -> int:
        """The port that clients know."""
        return self._kept[slug]

    def _next_free(self, slug: str) -> int:
        used = self.taken | set(self._kept.values()) | set(self._given.values())
        candidates = (port for port in range(self.first, 65536) if port not in used and is_free(self.host, port))
        port = next(candidates, None)
        if port is None:
            raise OSError(f"no free port from {self.first} on for the engine of {slug}")
        return port

    def _keep(self, slug: str, port: int) -> None:
        self._kept[slug] = port
        unfinished = self.file.with_suffix(".new")
        unfinished.write_text(json.dumps(self._kept))
        unfinished.replace(self.file)
