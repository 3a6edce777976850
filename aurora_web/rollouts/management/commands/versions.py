"""``manage.py versions TARGET``: one line per version, newest first; ``--json`` for scripts."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from aurora_web.registry.models import Status
from aurora_web.registry.services import UnknownTarget, find_target

MAX_ROWS = 100_000


class Command(BaseCommand):
    help = "List the speculator versions of a target, newest first."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("target", help="slug")
        parser.add_argument("--status", choices=Status.values, default=None)
        parser.add_argument("--limit", type=int, default=50)
        parser.add_argument("--json", action="store_true", help="one JSON object per line")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            rows = find_target(options["target"]).versions.select_related("parent").order_by("-number")
        except UnknownTarget as error:
            raise CommandError(str(error)) from error
        if not 1 <= options["limit"] <= MAX_ROWS:
            raise CommandError(f"--limit is {options['limit']}, expected 1 to {MAX_ROWS:,}")
        if options["status"]:
            rows = rows.filter(status=options["status"])
        for version in rows[: options["limit"]]:
            accept_length = version.accept_length()
            fields = {
                "number": version.number,
                "status": version.status,
                "parent": version.parent.number if version.parent else None,
                "accept_length": accept_length,
                "created_at": version.created_at.isoformat(),
                "sha256": version.sha256,
            }
            words = f"{accept_length:.2f}" if accept_length is not None else "-"
            line = f"v{version.number}\t{version.status}\t{words}\t{version.created_at:%Y-%m-%dT%H:%M:%SZ}"
            self.stdout.write(json.dumps(fields) if options["json"] else line)
