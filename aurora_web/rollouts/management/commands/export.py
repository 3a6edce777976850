"""``manage.py export audit|versions|metrics``: facts as CSV or JSON lines on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from aurora_web import exports
from aurora_web.accounts.audit import COLUMNS, AuditFilter, exported
from aurora_web.metrics.models import MetricWindow
from aurora_web.metrics.rollups import KEYS, SUMMED
from aurora_web.moments import WrongMoment
from aurora_web.registry.services import UnknownTarget, find_target

VERSION_COLUMNS = ("number", "status", "sha256", "size_bytes", "uri", "created_at")
WINDOW_COLUMNS = ("started_at", *KEYS, *SUMMED)
Table = tuple[Sequence[str], Iterable[Mapping[str, Any]]]


class Command(BaseCommand):
    help = "Write the audit log, or the versions or count windows of a target, to standard output."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("what", choices=["audit", "versions", "metrics"])
        parser.add_argument("--target", default="", help="slug; needed for versions and metrics")
        parser.add_argument("--since", default="", help="audit: ISO 8601 (UTC without an offset) or Unix seconds")
        parser.add_argument("--format", choices=["csv", "jsonl"], default="csv")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            columns, rows = self._table(options["what"], options["target"], options["since"])
        except (UnknownTarget, WrongMoment) as error:
            raise CommandError(str(error)) from error
        is_csv = options["format"] == "csv"
        self.stdout.write(exports.to_csv(columns, rows) if is_csv else exports.to_json_lines(rows), ending="")

    def _table(self, what: str, slug: str, since: str) -> Table:
        if what == "audit":
            return COLUMNS, exported(AuditFilter(target=slug, since=since))
        if not slug:
            raise CommandError(f"export {what} needs --target")
        target = find_target(slug)
        if what == "versions":
            return VERSION_COLUMNS, target.versions.values(*VERSION_COLUMNS).iterator()
        windows = MetricWindow.objects.filter(target=target).order_by("started_at")
        return WINDOW_COLUMNS, windows.values(*WINDOW_COLUMNS).iterator(chunk_size=2000)
