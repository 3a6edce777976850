"""``manage.py register DIR`` or ``--file targets.yaml``: registers targets; a second time it says so and succeeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from aurora_web.registry import bulk, packages
from aurora_web.registry.bulk import BulkRefused, Entry, RegistrationFileError
from aurora_web.registry.findings import Finding
from aurora_web.registry.known import known_target
from aurora_web.registry.models import ApprovalPolicy, Source
from aurora_web.registry.services import POLICY_FIELDS, IncompatibleTarget, propose, register_target

ACTOR = "manage.py"


class Command(BaseCommand):
    help = "Register a checkpoint directory, a model id or a server that reports, or a YAML file of them; prints slugs."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", nargs="?", default="", help="checkpoint directory, or name of a prepared package")
        parser.add_argument("--file", default="", help="YAML file with several targets, as docs/registration.md says")
        parser.add_argument(
            "--only-valid", action="store_true", help="with --file: leave out what cannot be registered"
        )
        parser.add_argument("--check", action="store_true", help="say what the check finds, and register nothing")
        parser.add_argument("--source", choices=Source.values, default=Source.EMBEDDED)
        parser.add_argument("--model-id", default="", help="with --source sglang, instead of a directory")
        parser.add_argument("--config", default="", help="config.json of a model id that is not on this disk")
        parser.add_argument("--replica", default="", help="SLUG/NAME of a server that has reported itself")
        parser.add_argument("--draft-path", default="", help="EAGLE-3 checkpoint that version 1 is made of")
        parser.add_argument("--draft-version", default="", help="other target's version that version 1 copies: demo:3")
        parser.add_argument("--slug", default="", help="default: the directory's or the model's name")
        parser.add_argument("--name", default="")
        parser.add_argument("--traffic", action="store_true", help="switch the demo's traffic generator on")
        parser.add_argument("--control-share", type=float, default=None)
        parser.add_argument("--slice-seconds", type=float, default=None)
        parser.add_argument("--max-lookahead", type=int, default=None)
        parser.add_argument("--canary-share", type=float, default=None)
        parser.add_argument("--trace-days", type=int, default=None)
        parser.add_argument("--expected-domains", type=_names, default=None, help="comma-separated: sql,prose")
        parser.add_argument("--approval", choices=ApprovalPolicy.values, default=None)

    def handle(self, *args: Any, **options: Any) -> None:
        if options["file"]:
            self._register_file(Path(options["file"]).expanduser(), options)
            return
        given = _arguments(options)
        if options["check"]:
            proposal = propose(actor=ACTOR, **given)
            self._tell(proposal.findings)
            if proposal.target is None:
                raise CommandError(f"{proposal.slug or 'this target'} cannot be registered")
            return
        if (known := known_target(given)) is not None:
            self.stdout.write(known.slug)
            return
        try:
            self.stdout.write(register_target(actor=ACTOR, **given).slug)
        except IncompatibleTarget as error:
            raise CommandError("\n".join(error.problems)) from error

    def _register_file(self, path: Path, options: dict[str, Any]) -> None:
        """Entries that are registered already, from the same origin, are named and left alone."""
        try:
            entries = bulk.read_yaml(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, RegistrationFileError) as error:
            raise CommandError(f"--file {path}: {error}") from error
        checked = bulk.check_all(entries, ACTOR)
        if num_known := sum(entry.known is not None for entry in checked):
            self.stderr.write(f"{num_known} of {len(checked)} registered already")
        for entry in checked:
            if options["check"] or not entry.is_valid:
                self.stderr.write(f"entry {entry.number}, {entry.slug or 'without a slug'}:")
                self._tell(entry.findings)
        if options["check"]:
            if not all(entry.is_valid for entry in checked):
                raise CommandError(f"cannot be registered: {_slugs(checked)}")
            return
        try:
            made = bulk.register_all(checked, ACTOR, "valid" if options["only_valid"] else "all")
        except BulkRefused as error:
            raise CommandError(f"nothing was registered, because of {_slugs(error.entries)}") from error
        for target in made:
            self.stdout.write(target.slug)

    def _tell(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            self.stderr.write(f"  {finding.state:8} {finding.topic}: {finding}")


def _slugs(entries: Sequence[Entry]) -> str:
    return ", ".join(entry.slug or f"entry {entry.number}" for entry in entries if not entry.is_valid)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    policy = {key: options[key] for key in POLICY_FIELDS if options.get(key) is not None}
    names = ("source", "model_id", "replica", "draft_path", "draft_version", "slug", "name")
    return {
        **{name: options[name] for name in names},
        "path": _path(options["path"]),
        "config": _config(options["config"]),
        "is_traffic_enabled": options["traffic"],
        **policy,
    }


def _path(given: str) -> str:
    """The absolute directory; a word that is none here is meant as the name of a package."""
    folder = Path(given).expanduser()
    if not given or (packages.is_name(given) and (packages.find(given) is not None or not folder.is_dir())):
        return given
    return str(folder.absolute())


def _config(path: str) -> dict[str, Any] | None:
    if not path:
        return None
    try:
        content: dict[str, Any] = json.loads(Path(path).expanduser().read_bytes())
    except (OSError, ValueError) as error:
        raise CommandError(f"--config {path}: {error}") from error
    return content
