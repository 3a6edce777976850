"""``manage.py rollback TARGET --reason WHY``: puts the previous version, or another one, back into service."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from aurora_web.registry.services import UnknownTarget, find_target
from aurora_web.rollouts import services
from aurora_web.rollouts.intent import RolloutError


class Command(BaseCommand):
    help = "Roll a target back; prints the version that is desired now. Automatic promotion is held until resumed."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("target", help="slug")
        parser.add_argument("--to", default="@previous", help="a version number; default: the one before")
        parser.add_argument("--reason", required=True)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            target, to = find_target(options["target"]), options["to"].removeprefix("v")
            found = services.rollback(target, "manage.py", options["reason"], to)
        except (UnknownTarget, RolloutError) as error:
            raise CommandError(str(error)) from error
        assert found.desired is not None
        self.stdout.write(f"v{found.desired.number}")
