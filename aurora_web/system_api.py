"""The state of the installation as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.http import HttpRequest
from ninja import Router

from aurora_web import system
from aurora_web.accounts.auth import Allow

router = Router(tags=["system"], auth=Allow("read"))


@router.get("/system", response=dict[str, Any])
def system_state(request: HttpRequest) -> dict[str, Any]:
    """Workers, queues, beat, directories (up to 15 s old), database, retention, versions."""
    found = system.processes()
    return {
        "processes": asdict(found)
        | {"is_beat_late": found.is_beat_late, "num_busy_trainers": system.num_busy_trainers()},
        "database": system.database(),
        "retention": system.retention(),
        "versions": system.versions(),
        "engines": system.engines(),
    }
