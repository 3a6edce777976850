"""The Celery application: ``celery -A aurora_web -Q default`` and ``celery -A aurora_web -Q gpu --pool=solo``."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aurora_web.settings")  # noqa: TID251 - names the settings module only

app = Celery("aurora_web")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
