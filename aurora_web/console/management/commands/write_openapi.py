"""``manage.py write_openapi``: rewrites docs/openapi.json from the code; ``--check`` only compares."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    help = "Write docs/openapi.json from the code."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="fail when the file is not what the code gives")

    def handle(self, *args: Any, **options: Any) -> None:
        from aurora_web.api import api
        from aurora_web.openapi import document_text

        path = settings.BASE_DIR / "docs" / "openapi.json"
        text = document_text(api)
        if options["check"]:
            if not path.exists() or path.read_text() != text:
                raise CommandError(f"{path} is not what the code gives: run manage.py write_openapi")
            return
        path.write_text(text)
        self.stdout.write(f"{path}")
