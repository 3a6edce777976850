from __future__ import annotations

from django.utils import timezone

from aurora_web.celery import app
from aurora_web.metrics import rollups, services


@app.task(name="metrics.roll_up")
def roll_up() -> None:
    services.roll_up()


@app.task(name="metrics.refresh")
def refresh() -> None:
    rollups.refresh(timezone.now())


@app.task(name="metrics.forget")
def forget() -> None:
    services.forget(timezone.now())
