from __future__ import annotations

from django.apps import AppConfig

from aurora_web import pools


class RegistryConfig(AppConfig):
    name = "aurora_web.registry"

    def ready(self) -> None:
        pools.close_at_exit()
