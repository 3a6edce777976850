from __future__ import annotations

from uuid import UUID

from django.utils import timezone

from aurora_web.celery import app
from aurora_web.training import services


@app.task(name="training.tick")
def tick() -> None:
    services.tick()


@app.task(name="training.reconcile")
def reconcile() -> None:
    services.reconcile(timezone.now())


@app.task(name="training.run_slice")
def run_slice(slice_id: str) -> None:
    from training_worker import slices  # the one import of torch, and only in the trainer's process

    services.execute(UUID(hex=slice_id), slices.run_slice)
