from __future__ import annotations

from typing import Any

from django.apps import AppConfig


def _judge(*, version: Any, **kwargs: Any) -> None:
    from aurora_web.rollouts.services import judge

    judge(version)  # in the trainer's process, right after the slice: no wait for a beat


class RolloutsConfig(AppConfig):
    name = "aurora_web.rollouts"

    def ready(self) -> None:
        from aurora_web.registry.signals import candidate_registered

        candidate_registered.connect(_judge, dispatch_uid="rollouts.judge")
