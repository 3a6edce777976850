"""``manage.py create_token --role operator`` or ``--scope read --scope operate``: prints an API token, nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from aurora_web.accounts.models import TokenRole
from aurora_web.accounts.scopes import MEANINGS
from aurora_web.accounts.services import AccountError, create_token


class Command(BaseCommand):
    help = "Create an API token and print it; it is shown this once."

    def add_arguments(self, parser: CommandParser) -> None:
        wanted = parser.add_mutually_exclusive_group(required=True)
        wanted.add_argument("--role", default="", choices=TokenRole.values, help="the scopes of a role")
        wanted.add_argument("--scope", action="append", default=[], choices=list(MEANINGS), help="may be repeated")
        parser.add_argument("--name", default="", help="what it is for, to tell tokens apart")
        parser.add_argument("--days", type=int, default=None, help="until it expires; default: never")

    def handle(self, *args: Any, **options: Any) -> None:
        role, scopes = options["role"], options["scope"]
        name = options["name"] or f"{role or ', '.join(scopes)} token"
        days = options["days"]
        if days is not None and not 1 <= days <= 3650:
            raise CommandError(f"--days is {days}, expected 1 to 3650")
        expires_at = timezone.now() + timedelta(days=days) if days else None
        try:
            _, secret = create_token(name[:100], role, "manage.py", expires_at, scopes=scopes)
        except AccountError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(secret)
