"""Every write about targets and versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Max

from aurora_web import live
from aurora_web.accounts.services import record
from aurora_web.locks import lock_row
from aurora_web.registry.checks import TOKENS_PER_SECOND, Examined, Origin, examine
from aurora_web.registry.compatibility import TargetFacts
from aurora_web.registry.findings import Finding, Topic, ordered, refused
from aurora_web.registry.models import (
    ALLOWED_TRANSITIONS,
    AnnouncedReplica,
    Source,
    SpeculatorVersion,
    Target,
    Transition,
)
from aurora_web.registry.sendable import given_by_rules, validate_sendable
from aurora_web.registry.signals import candidate_registered
from speculators.records import EvalReport, VersionManifest

POLICY_FIELDS = (
    "approval",
    "approvers",
    "may_approve_own",
    "min_gain",
    "domain_tolerance",
    "min_held_out_traces",
    "slice_seconds",
    "control_share",
    "max_lookahead",
    "min_accept_length",
    "canary_share",
    "canary_minutes",
    "canary_min_requests",
    "expected_domains",
    "trace_days",
)
TRAFFIC_FIELDS = (
    "traffic_enabled",
    "traffic_concurrency",
    "traffic_requests_per_second",
    "traffic_mix",
    "traffic_max_tokens",
    "traffic_sampled_share",
    "traffic_schedule",
)
RESERVED_SLUGS = frozenset({"new", "bulk", "check"})  # what pages and API have at the place of a slug


class UnknownTarget(LookupError):
    """A slug under which no target is registered."""


class StaleVersion(RuntimeError):
    """Somebody else changed the version's status first; reload and decide again."""


class IncompatibleTarget(ValueError):
    """A checkpoint directory that cannot be served; ``problems`` explains each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(" ".join(problems))
        self.problems = problems


@transaction.atomic
def transition(version: SpeculatorVersion, old: str, new: str, reason: str, actor: str) -> Transition:
    """Change a version's status: compare-and-set on ``old``, one append-only row.

    Raises StaleVersion when the status is not ``old`` any more, ValueError for a change that is not allowed.
    """
    if new not in ALLOWED_TRANSITIONS.get(old, frozenset()):
        allowed = ", ".join(sorted(ALLOWED_TRANSITIONS.get(old, frozenset()))) or "nothing"
        raise ValueError(f"a version cannot go from {old} to {new}: from {old} it may go to {allowed}")
    if SpeculatorVersion.objects.filter(pk=version.pk, status=old).update(status=new) != 1:
        raise StaleVersion(f"{version} is not {old} any more: somebody else changed it first")
    version.status = new
    row = Transition.objects.create(version=version, old=old, new=new, reason=reason, actor=actor)
    live.publish(version.target_id, "version", transition_payload(row))
    return row


def transition_payload(row: Transition) -> dict[str, Any]:
    """One change of status as the browsers get it."""
    return {
        "id": row.version_id,
        "number": row.version.number,
        "old": row.old,
        "new": row.new,
        "reason": row.reason,
        "actor": row.actor,
        "at": row.at.timestamp(),
        "accept_length": row.version.accept_length(),
    }


@dataclass(frozen=True, slots=True)
class Proposal:
    """A registration that has been checked and not been made; page, API, command and file all go through it."""

    slug: str
    origin: Origin
    facts: TargetFacts | None
    findings: list[Finding]  # everything that was checked, in the order of topics
    target: Target | None  # not saved; None when something is refused

    @property
    def problems(self) -> list[str]:
        """Each thing that stands in the way, with its fix."""
        return [str(finding) for finding in refused(self.findings)]


def propose(
    *,
    actor: str,
    slug: str = "",
    name: str = "",
    is_traffic_enabled: bool = False,
    tokens_per_second: float = TOKENS_PER_SECOND,
    **given: Any,
) -> Proposal:
    """Check a registration without making it. ``given``: fields of Origin, and policy."""
    policy = {key: value for key, value in given.items() if key not in Origin.__dataclass_fields__}
    origin = Origin(**{key: value for key, value in given.items() if key not in policy})
    examined = examine(origin, tokens_per_second)
    slug = slug or origin.replica_slug or (examined.facts.default_slug if examined.facts else "")
    found = _slug_findings(slug, origin) if slug else []
    unknown = sorted(policy.keys() - set(POLICY_FIELDS))
    expected = f"Expected one of {', '.join(POLICY_FIELDS)}."
    found += [Finding(Topic.SETTINGS, f"{key} is no policy setting.", expected) for key in unknown]
    known = {key: value for key, value in policy.items() if key not in unknown}
    target = _unsaved(examined, origin, slug=slug, name=name or slug, created_by=actor, **known)
    if target is not None:
        target.traffic_enabled = is_traffic_enabled
        found += _wrong(lambda: target.clean_fields(exclude=["slug"]))
    else:  # what is wrong with the policy is said at once, not when the model has been mended
        found += _wrong(lambda: Target(**known).clean_fields(exclude=_but(known)))
    found += _domain_findings(known.get("expected_domains"))
    findings = ordered([*examined.findings, *found])
    return Proposal(slug, origin, examined.facts, findings, None if refused(findings) else target)


def _unsaved(examined: Examined, origin: Origin, **fields: Any) -> Target | None:
    """The target that these facts describe; None while the check itself refuses it."""
    facts = examined.facts
    if facts is None or refused(examined.findings):
        return None
    return Target(
        source=origin.source,
        path=facts.path,
        model_id=facts.model_id,
        config=facts.config,
        draft_path=examined.draft_path,
        draft_version=examined.draft_version,
        architecture=facts.architecture,
        num_layers=facts.num_layers,
        hidden_size=facts.hidden_size,
        vocab_size=facts.vocab_size,
        **fields,
    )


def register_target(*, actor: str, **given: Any) -> Target:
    """Register a target; the day-0 job starts by itself within a second. ``given``: what ``propose`` takes.

    Raises IncompatibleTarget with every problem found, the slug's included.
    """
    proposal = propose(actor=actor, **given)
    if proposal.target is None:
        raise IncompatibleTarget(proposal.problems)
    return register_proposed(proposal.target, actor)


def register_proposed(target: Target, actor: str) -> Target:
    """Make what was proposed. Raises IncompatibleTarget when somebody took the slug in the meantime."""
    detail = {"source": target.source, "origin": target.origin, "draft_path": target.draft_path}
    if target.draft_version is not None:
        detail["draft_version"] = str(target.draft_version)
    try:
        with transaction.atomic():
            target.save()
            AnnouncedReplica.objects.filter(slug=target.slug).delete()  # their next report is that of its replicas
            record(actor, "target.register", target.slug, target_slug=target.slug, detail={"new": detail})
    except IntegrityError as error:
        raise IncompatibleTarget([f"There is a target {target.slug!r} already: choose another slug."]) from error
    live.publish(target.pk, "target", {"slug": target.slug, "change": "registered"})
    return target


def embedded_engines() -> list[dict[str, Any]]:
    """The targets that should have an embedded engine on this machine, as the supervisor reads them."""
    embedded = Target.objects.filter(source=Source.EMBEDDED)
    return [{"slug": target.slug, "path": target.path, "enabled": target.is_active} for target in embedded]


def _slug_findings(slug: str, origin: Origin) -> list[Finding]:
    fix = "Use lower-case letters, digits, '.', '_' and '-', at most 64 of them."
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", slug):
        return [Finding(Topic.SETTINGS, f"The slug {slug!r} cannot be used.", fix)]
    if slug in RESERVED_SLUGS:
        return [Finding(Topic.SETTINGS, f"The slug {slug!r} is an address of the console.", "Choose another slug.")]
    if origin.replica_slug not in ("", slug):
        says = f"The slug is {slug!r}, but the server was started with AURORA_TARGET_SLUG={origin.replica_slug}."
        return [Finding(Topic.SETTINGS, says, f"Keep {origin.replica_slug!r}, or start the server again.")]
    if Target.objects.filter(slug=slug).exists():
        return [Finding(Topic.SETTINGS, f"There is a target {slug!r} already.", "Choose another slug.")]
    return []


def _but(names: Iterable[str]) -> set[str]:
    """All fields of a target but these."""
    return {field.name for field in Target._meta.fields} - set(names)


def _domain_findings(names: Any, given: Iterable[str] = ()) -> list[Finding]:
    """About expected domains that no request can have; what is no list of names has a finding of its own."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return []
    try:
        validate_sendable([name for name in names if name.strip()], given)
    except ValidationError as error:
        return [Finding(Topic.SETTINGS, f"expected_domains: {' '.join(error.messages)}.")]
    return []


def _wrong(clean: Callable[[], None]) -> list[Finding]:
    try:
        clean()
    except ValidationError as error:
        return [
            Finding(Topic.SETTINGS, f"{field}: {' '.join(messages)}") for field, messages in error.message_dict.items()
        ]
    return []


@transaction.atomic
def change_settings(target: Target, changes: dict[str, Any], actor: str, reason: str = "") -> Target:
    """Change policy, traffic, name or is_active of a target; the activity log keeps old, new and why.

    Raises IncompatibleTarget for a value or a name that cannot be used.
    """
    known = {*POLICY_FIELDS, *TRAFFIC_FIELDS, "name", "is_active"}
    if unknown := changes.keys() - known:
        expected = ", ".join(sorted(known))
        raise IncompatibleTarget([f"{key} is no setting: expected one of {expected}." for key in sorted(unknown)])
    target = lock_row(Target.objects.all(), pk=target.pk)
    changed = {k: v for k, v in changes.items() if getattr(target, k) != v}
    old = {k: getattr(target, k) for k in changed}
    for key, value in changed.items():
        setattr(target, key, value)
    # Only what changes: a value from before a bound must not stand in the way of the other settings.
    found = _wrong(lambda: target.clean_fields(exclude=_but(changed)))
    may_stay = old.get("expected_domains", [])  # names from before they had to be what a request can have
    found += _domain_findings(changed.get("expected_domains"), given_by_rules(target) | set(may_stay))
    if found:
        raise IncompatibleTarget([str(finding) for finding in found])
    if changed:
        target.save(update_fields=list(changed))
        detail = {"old": old, "new": changed}
        record(actor, "target.settings", target.slug, target_slug=target.slug, reason=reason, detail=detail)
        live.publish(target.pk, "target", {"slug": target.slug, "change": "settings"})
    return target


@transaction.atomic
def register_version(
    target: Target, manifest: VersionManifest, report: EvalReport | None, actor: str
) -> SpeculatorVersion:
    """Give a candidate its number and its row; whoever listens to ``candidate_registered`` judges it after commit."""
    lock_row(Target.objects.all(), pk=target.pk)  # numbers are given one at a time
    number = (target.versions.aggregate(n=Max("number"))["n"] or 0) + 1
    parent = target.versions.filter(number=manifest.parent).first() if manifest.parent else None
    version = SpeculatorVersion.objects.create(
        target=target,
        number=number,
        parent=parent,
        uri=manifest.uri,
        sha256=manifest.sha256,
        size_bytes=manifest.size_bytes,
        config=manifest.config,
        provenance=manifest.provenance,
        report=report.to_json() if report else None,
    )
    reason = "trained and saved"
    if version.is_random or version.is_imported:
        reason = "random weights, day 0" if version.is_random else "imported"
    row = Transition.objects.create(version=version, old="", new=version.status, reason=reason, actor=actor)
    live.publish(target.pk, "version", transition_payload(row))
    transaction.on_commit(lambda: candidate_registered.send(sender=SpeculatorVersion, version=version), robust=True)
    return version


def find_target(slug: Any) -> Target:
    """The target called ``slug``. Raises UnknownTarget."""
    target = Target.objects.filter(slug=slug).first() if isinstance(slug, str) and "\0" not in slug else None
    if target is None:
        raise UnknownTarget(f"there is no target {slug!r:.80}: register it first")
    return target


def lock_version(version: SpeculatorVersion) -> SpeculatorVersion:
    """The version as it is now, with its target, locked until the transaction ends."""
    return lock_row(SpeculatorVersion.objects.select_related("target"), pk=version.pk)


def find_version(target: Target, name: str) -> SpeculatorVersion | None:
    """The version called ``name``: a number, ``@live``, ``@previous`` or ``@candidate``; None when there is none."""
    versions = SpeculatorVersion.objects.filter(target=target)
    if name == "@live":
        return versions.filter(status="live").first()
    if name == "@candidate":
        return versions.filter(status__in=["candidate", "passed"]).first()
    if name == "@previous":
        return previous_versions([target.pk]).get(target.pk)
    is_number = name.isascii() and name.isdigit() and len(name) < 10
    return versions.filter(number=int(name)).first() if is_number else None


def previous_versions(target_ids: Iterable[int]) -> dict[int, SpeculatorVersion]:
    """``@previous`` of each of these targets that has one: what was live last and could be again."""
    retired = Transition.objects.filter(
        old="live", version__status="retired", version__pruned_at=None, version__target__in=list(target_ids)
    )
    latest = (
        retired.order_by("version__target_id", "-at", "-id").distinct("version__target_id").select_related("version")
    )
    return {row.version.target_id: row.version for row in latest}
