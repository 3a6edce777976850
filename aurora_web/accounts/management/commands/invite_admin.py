"""``manage.py invite_admin``: prints a one-time link that creates an admin."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from aurora_web.accounts.models import Role, User
from aurora_web.accounts.services import create_invite


class Command(BaseCommand):
    help = "Print a one-time link that creates an admin."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--if-none", action="store_true", help="print nothing when there is an admin already")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["if_none"] and User.objects.filter(role=Role.ADMIN, is_active=True).exists():
            return
        _, secret = create_invite(Role.ADMIN, actor="manage.py")
        self.stdout.write(f"{settings.CONSOLE_URL}/accounts/invite/{secret}/")
