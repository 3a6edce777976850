from __future__ import annotations

import threading
from functools import partial
from uuid import UUID

from celery.signals import worker_shutting_down
from django.utils import timezone

from aurora_web.celery import app
from aurora_web.training import leftovers, services

_stopping = threading.Event()


@worker_shutting_down.connect
def stop_training(**_: object) -> None:
    """A worker that is to end waits for its slice, which ends with the step at work and keeps what it learnt."""
    _stopping.set()


@app.task(name="training.tick")
def tick() -> None:
    services.tick()


@app.task(name="training.reconcile")
def reconcile() -> None:
    services.reconcile(timezone.now())


@app.task(name="training.sweep")
def sweep() -> None:
    leftovers.sweep(timezone.now())


@app.task(name="training.run_slice")
def run_slice(slice_id: str) -> None:
    from training_worker import slices  # the one import of torch, and only in the trainer's process

    services.execute(UUID(hex=slice_id), partial(slices.run_slice, is_stopping=_stopping.is_set))
