from __future__ import annotations

from django.utils import timezone

from aurora_web import idempotency
from aurora_web.celery import app


@app.task(name="accounts.forget")
def forget() -> None:
    idempotency.forget(timezone.now())
