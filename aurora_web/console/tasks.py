from __future__ import annotations

from aurora_web import system
from aurora_web.celery import app


@app.task(name="system.beat")
def beat() -> None:
    system.note_beat()
