from __future__ import annotations

from django.utils import timezone

from aurora_web.celery import app
from aurora_web.registry import announcements, registration_drafts


@app.task(name="registry.forget")
def forget() -> None:
    now = timezone.now()
    registration_drafts.forget(now)
    announcements.forget(now)
