"""Several registrations at once, from a YAML file or a list: each is checked, then all of them are made, or none.

One entry has the fields of ``POST /api/v1/targets``; docs/registration.md has an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml
from django.db import transaction

from aurora_web.registry.checks import TOKENS_PER_SECOND, Origin
from aurora_web.registry.findings import Finding, Topic, ok, ordered, refused
from aurora_web.registry.known import known_target
from aurora_web.registry.models import Target
from aurora_web.registry.services import POLICY_FIELDS, IncompatibleTarget, Proposal, propose, register_proposed

MAX_ENTRIES = 100
MAX_FILE_BYTES = 500_000
MAX_DEPTH = 32  # a model's config.json in an entry takes a few
MODES = {"all": "All of them, or none", "valid": "Those that can be registered"}
FIELDS: dict[str, type] = {
    "source": str,
    "path": str,
    "model_id": str,
    "config": dict,
    "replica": str,
    "draft_path": str,
    "draft_version": str,
    "slug": str,
    "name": str,
    "traffic_enabled": bool,
    "policy": dict,
}
WORDS = {str: "text", dict: "a mapping", bool: "true or false"}


class RegistrationFileError(ValueError):
    """A file, or a list, that holds no registrations; the message names the place."""


class BulkRefused(ValueError):
    """Nothing was registered, because of these entries."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__(f"{len(entries)} of the entries cannot be registered, so none was")
        self.entries = entries


@dataclass(frozen=True, slots=True)
class Entry:
    """One registration of several, checked."""

    number: int  # from 1
    slug: str
    proposal: Proposal | None  # None = the entry itself cannot be understood
    findings: list[Finding]
    known: Target | None = None  # registered before, from the same origin: it is left alone

    @property
    def is_valid(self) -> bool:
        return not refused(self.findings)

    @property
    def problems(self) -> list[str]:
        return [str(finding) for finding in refused(self.findings)]


def read_yaml(text: str) -> list[Any]:
    """The entries below ``targets:``. Raises RegistrationFileError naming line and column."""
    if len(text.encode()) > MAX_FILE_BYTES:
        raise RegistrationFileError(f"the file has more than {MAX_FILE_BYTES:,} bytes: split it")
    try:
        _check_events(text)
        content = yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        raise RegistrationFileError(f"{_place(error.problem_mark)}{error.problem or error}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, RegistrationFileError):
            raise
        raise RegistrationFileError(f"this is no YAML: {error}") from error
    if not isinstance(content, dict) or content.keys() != {"targets"}:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else _kind(content)
        raise RegistrationFileError(f"expected one key, targets:, with a list below it; found {found:.120}")
    return checked_list(content["targets"])


def _check_events(text: str) -> None:
    """Aliases and deep nesting are refused where they begin: what they stand for, or reading on, may take hours."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise RegistrationFileError("anchors and aliases (&name, *name) are not read here: write the values out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            place = _place(event.start_mark)
            raise RegistrationFileError(f"{place}lists and mappings are more than {MAX_DEPTH} deep in each other")


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""


def checked_list(entries: Any) -> list[Any]:
    """The entries themselves. Raises RegistrationFileError."""
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_ENTRIES:
        found = f"{len(entries)} of them" if isinstance(entries, list) else _kind(entries)
        raise RegistrationFileError(f"targets: expected a list of 1 to {MAX_ENTRIES} targets, found {found}")
    return entries


def _kind(value: Any) -> str:
    """What YAML made of a text, in words."""
    words = {type(None): "nothing", str: "text", bool: "true or false", list: "a list", dict: "a mapping"}
    return words.get(type(value), f"the value {value!r:.40}")


def arguments_of(given: Any) -> dict[str, Any]:
    """What ``propose`` takes, from one entry. Raises IncompatibleTarget naming each field that is wrong."""
    found, problems = _understood(given)
    if problems:
        raise IncompatibleTarget(list(problems.values()))
    return found


def _understood(given: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """What ``propose`` takes of what can be used; what is wrong with the rest, by field."""
    if not isinstance(given, dict):
        return {}, {"": f"{given!r:.80} is no entry: expected fields like slug: and path:."}
    problems = {
        str(name): f"{name!s:.40} is no field of a registration. Expected one of {', '.join(FIELDS)}."
        for name in given
        if name not in FIELDS
    }
    for name, kind in FIELDS.items():
        value = given.get(name)
        if value is not None and not isinstance(value, kind):
            problems[name] = f"{name} is {value!r:.80}. Expected {WORDS[kind]}."
    policy = given.get("policy") if "policy" not in problems else None
    expected = ", ".join(POLICY_FIELDS)
    problems |= {
        f"policy: {name}": f"policy: {name!s:.40} is no setting. Expected one of {expected}."
        for name in policy or {}
        if name not in POLICY_FIELDS
    }
    named = {name: given[name] for name in FIELDS if given.get(name) is not None and name not in problems}
    named.pop("policy", None)
    if "traffic_enabled" in named:
        named["is_traffic_enabled"] = named.pop("traffic_enabled")
    return named | {name: value for name, value in (policy or {}).items() if name in POLICY_FIELDS}, problems


def check_all(entries: Sequence[Any], actor: str) -> list[Entry]:
    """Every entry on its own, and that no two have one slug, and which are there already. Nothing is made."""
    found: list[Entry] = []
    for number, given in enumerate(entries, 1):
        if (entry := _registered_before(given, number)) is not None:
            found.append(entry)
            continue
        entry = check_one(given, actor, number)
        twin = next((other for other in found if entry.slug and other.slug == entry.slug), None)
        if twin is not None:
            says = f"The slug {entry.slug!r} is that of entry {twin.number} too."
            clash = Finding(Topic.SETTINGS, says, "Give each entry a slug of its own.")
            entry = replace(entry, findings=ordered([*entry.findings, clash]))
        found.append(entry)
    return found


def _registered_before(given: Any, number: int) -> Entry | None:
    try:
        target = known_target(arguments_of(given))
    except IncompatibleTarget:
        return None  # the check says what is wrong with it
    if target is None:
        return None
    says = f"{target.slug} is registered already, from {target.origin}: it is left as it is."
    return Entry(number, target.slug, None, [ok(Topic.SOURCE, says)], target)


def check_one(given: Any, actor: str, number: int = 1, tokens_per_second: float = TOKENS_PER_SECOND) -> Entry:
    """One entry, with everything that is wrong with it: fields, name, policy and model. Nothing is made."""
    arguments, problems = _understood(given)
    findings = [Finding(Topic.SETTINGS, problem) for problem in problems.values()]
    if not isinstance(given, dict):
        return Entry(number, "", None, findings)
    proposal = propose(actor=actor, tokens_per_second=tokens_per_second, **arguments)
    # Where the model comes from was said, in a way that cannot be read: that nothing was said would not be true.
    is_origin_read = problems.keys().isdisjoint(Origin.__dataclass_fields__)
    findings += [found for found in proposal.findings if is_origin_read or found.topic == Topic.SETTINGS]
    return Entry(number, "" if "slug" in problems else proposal.slug, proposal, ordered(findings))


def is_possible(entries: Sequence[Entry], mode: str) -> bool:
    """Whether ``register_all`` would begin."""
    num_bad = sum(not entry.is_valid for entry in entries)
    return num_bad == 0 or (mode != "all" and num_bad < len(entries))


def register_all(entries: Sequence[Entry], actor: str, mode: str) -> list[Target]:
    """Make them: ``mode`` "all" = every one or none, "valid" = those without a problem. Raises BulkRefused.

    Those that were registered before are neither: a file that is given twice makes nothing the second time.
    """
    if not is_possible(entries, mode):
        raise BulkRefused([entry for entry in entries if not entry.is_valid])
    good = [entry for entry in entries if entry.is_valid and entry.known is None]
    made = []
    with transaction.atomic():
        for entry in good:
            assert entry.proposal is not None and entry.proposal.target is not None
            try:
                made.append(register_proposed(entry.proposal.target, actor))
            except IncompatibleTarget as error:  # somebody else took the slug since the check
                entry.findings.extend(Finding(Topic.SETTINGS, problem) for problem in error.problems)
                if mode == "all":
                    raise BulkRefused([entry]) from error
    return made
