"""``manage.py export audit|versions|metrics|traces``: facts as CSV or JSON lines on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from aurora_web import exports
from aurora_web.accounts.audit import COLUMNS, AuditFilter, exported
from aurora_web.accounts.services import record
from aurora_web.metrics.models import MetricWindow
from aurora_web.metrics.rollups import KEYS, SUMMED
from aurora_web.moments import WrongMoment
from aurora_web.registry.models import Target
from aurora_web.registry.services import UnknownTarget, find_target
from aurora_web.traces import payloads
from aurora_web.traces.search import SearchError, SearchTooSlow, read_filter

VERSION_COLUMNS = ("number", "status", "sha256", "size_bytes", "uri", "created_at")
WINDOW_COLUMNS = ("started_at", *KEYS, *SUMMED)
Table = tuple[Sequence[str], Iterable[Mapping[str, Any]]]


class Command(BaseCommand):
    help = "Write the audit log, or the versions, count windows or traces of a target, to standard output."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("what", choices=["audit", "versions", "metrics", "traces"])
        parser.add_argument("--target", default="", help="slug; needed for all but audit")
        parser.add_argument(
            "--since", default="", help="audit, traces: ISO 8601 (UTC without an offset) or Unix seconds"
        )
        parser.add_argument("--format", choices=["csv", "jsonl"], default="", help="default: csv; of traces jsonl")
        parser.add_argument("--text", action="store_true", help="traces: with tokens and text; they are redacted else")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["what"] == "traces":
                self._write_traces(options["target"], options["since"], options["text"], options["format"])
                return
            columns, rows = self._table(options["what"], options["target"], options["since"])
        except (UnknownTarget, WrongMoment, SearchError, SearchTooSlow) as error:
            raise CommandError(str(error)) from error
        is_csv = options["format"] != "jsonl"
        self.stdout.write(exports.to_csv(columns, rows) if is_csv else exports.to_json_lines(rows), ending="")

    def _table(self, what: str, slug: str, since: str) -> Table:
        if what == "audit":
            return COLUMNS, exported(AuditFilter(target=slug, since=since))
        target = self._target(what, slug)
        if what == "versions":
            return VERSION_COLUMNS, target.versions.values(*VERSION_COLUMNS).iterator()
        windows = MetricWindow.objects.filter(target=target).order_by("started_at")
        return WINDOW_COLUMNS, windows.values(*WINDOW_COLUMNS).iterator(chunk_size=2000)

    def _target(self, what: str, slug: str) -> Target:
        if not slug:
            raise CommandError(f"export {what} needs --target")
        return find_target(slug)

    def _write_traces(self, slug: str, since: str, has_text: bool, file_format: str) -> None:
        """JSON lines as the page's export has them, newest first and without its limit; told in the audit log."""
        target = self._target("traces", slug)
        if file_format == "csv":
            raise CommandError("a trace is no line of a table: export traces with --format jsonl, or without --format")
        given = {"since": since} if since else {}
        wanted, cursor, num_traces, is_more = read_filter(given), "", 0, True
        try:
            while is_more:
                lines, cursor, num = payloads.export(target, wanted, has_text, cursor, payloads.CHUNK)
                self.stdout.write(lines.decode(), ending="")
                num_traces, is_more = num_traces + num, bool(cursor)
        finally:  # what was written is told, also when the reader has gone
            detail = {"num_traces": num_traces, "has_text": has_text, "filter": given}
            record("manage.py", "trace.export", target.slug, target_slug=target.slug, detail=detail)
