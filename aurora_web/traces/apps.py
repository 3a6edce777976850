from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


def _make_partitions(**kwargs: Any) -> None:
    from django.utils import timezone

    from aurora_web.traces.services import create_partitions

    create_partitions(timezone.now())


class TracesConfig(AppConfig):
    name = "aurora_web.traces"

    def ready(self) -> None:
        # Partitions must be there before the first trace: rows in the default partition keep their day out of its own.
        post_migrate.connect(_make_partitions, sender=self)
