from __future__ import annotations

from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    name = "aurora_web.console"
