from __future__ import annotations

from django.utils import timezone

from aurora_web.celery import app
from aurora_web.rollouts import notifications, replicas


@app.task(name="rollouts.reconcile")
def reconcile() -> None:
    replicas.reconcile(timezone.now())


@app.task(name="rollouts.deliver")
def deliver(delivery_id: int) -> None:
    notifications.attempt(delivery_id)
