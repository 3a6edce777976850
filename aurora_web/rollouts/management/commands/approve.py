"""``manage.py approve TARGET VERSION --reason WHY``: puts a version that passed the gate into service."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from aurora_web.registry.services import StaleVersion, UnknownTarget, find_target, find_version
from aurora_web.rollouts import services
from aurora_web.rollouts.intent import RolloutError


class Command(BaseCommand):
    help = "Approve a version that passed the gate; prints the generation that wants it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("target", help="slug")
        parser.add_argument("version", help="a number, or @candidate")
        parser.add_argument("--reason", required=True)
        parser.add_argument("--expected-status", default=None, help="fail when the version has another status by now")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            version = find_version(find_target(options["target"]), options["version"].removeprefix("v"))
            if version is None:
                raise CommandError(f"{options['target']} has no version {options['version']}")
            found = services.approve(version, "manage.py", options["reason"], options["expected_status"])
        except (UnknownTarget, StaleVersion, RolloutError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{found.generation}")
