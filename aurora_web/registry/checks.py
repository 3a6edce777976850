"""The compatibility check of a registration: where the model comes from, what it will need, and the first draft."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from aurora_web.registry import estimates, packages
from aurora_web.registry.compatibility import TargetFacts, aux_layer_ids, facts_found, inspect
from aurora_web.registry.drafts import inspect_copy, inspect_draft
from aurora_web.registry.findings import Finding, Topic, ok, refused, warning
from aurora_web.registry.models import AnnouncedReplica, Source, SpeculatorVersion
from aurora_web.registry.sglang_check import engine_finding, inspect_reported, inspect_served
from aurora_web.retention.services import kept

TOKENS_PER_SECOND = 1000.0  # of the stream of hidden states, where nobody says how busy the target will be
MAX_TOKENS_PER_SECOND = 1e9
REPORTED = "reported"  # a source beside those of Source: a server that has reported itself


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a target comes from, as a person or a script gives it."""

    path: str = ""  # checkpoint directory, or the name of a package that is prepared on this machine
    model_id: str = ""  # sglang only: what the server is told to load
    config: dict[str, Any] | None = None  # sglang only: config.json of a model id that is not on the console's disk
    source: str = Source.EMBEDDED
    draft_path: str = ""  # EAGLE-3 checkpoint that version 1 is made of; "" = random weights
    draft_version: str = ""  # or another target's version, like demo:3
    replica: str = ""  # sglang only, instead of path and model_id: "slug/name" of a server that has reported itself

    @property
    def replica_slug(self) -> str:
        """The slug that the reporting server was started with."""
        return self.replica.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Examined:
    """What the check found; ``facts`` is None when there is no config to judge."""

    facts: TargetFacts | None
    draft_path: str
    draft_version: SpeculatorVersion | None
    findings: list[Finding]


def examine(origin: Origin, tokens_per_second: float = TOKENS_PER_SECOND) -> Examined:
    """Everything that can be known before a server or a trainer is started."""
    facts, found, announced = _inspect(origin)
    if facts is None:
        return Examined(None, "", None, found)
    serves = "the embedded engine serves it" if origin.source == Source.EMBEDDED else "SGLang's EAGLE-3 serves it"
    wrong = {finding.topic for finding in found}
    right = facts_found(facts, serves)
    if origin.source == Source.EMBEDDED:
        right.append(ok(Topic.CHAT, "The engine writes messages by the model's own template."))
    found += [finding for finding in right if finding.topic not in wrong]
    is_usable = not {Topic.ARCHITECTURE, Topic.LAYERS, Topic.SHAPE, Topic.VOCABULARY} & {
        f.topic for f in refused(found)
    }
    draft_path, version, draft_findings = _draft(origin, facts)
    found += draft_findings if is_usable else refused(draft_findings)  # no draft suits a model that cannot be served
    if announced is not None and not (origin.draft_path or origin.draft_version):
        found += _launched_with(announced, facts)
    if is_usable:
        found += [_memory(facts, origin.source), _bandwidth(facts, tokens_per_second)]
    found.append(_engine(origin, announced))
    return Examined(facts, draft_path, version, found)


def _inspect(origin: Origin) -> tuple[TargetFacts | None, list[Finding], AnnouncedReplica | None]:
    if origin.source not in Source.values:
        says = f"The source {origin.source!r} is unknown."
        return None, [Finding(Topic.SOURCE, says, f"Expected one of {', '.join(Source.values)}.")], None
    if origin.source == Source.EMBEDDED:
        if origin.model_id or origin.config or origin.replica:
            says = "A model id, or a server that has reported itself, is for SGLang servers."
            return None, [Finding(Topic.SOURCE, says, "The embedded engine needs a checkpoint directory.")], None
        path, missing = _directory(origin.path)
        return (None, missing, None) if missing else (*inspect(path), None)
    if not origin.replica:
        path, missing = _directory(origin.path)
        if missing:
            return None, missing, None
        return (*inspect_served(path, origin.model_id, origin.config, settings.MODELS_DIR), None)
    slug, _, name = origin.replica.partition("/")
    announced = AnnouncedReplica.objects.filter(slug=slug, name=name).first()
    if announced is None or origin.path or origin.model_id:
        says = f"No server {origin.replica!r} has reported itself for a target that is not registered."
        if announced is not None:
            says = "A server that has reported itself brings its model along: a directory or a model id is too much."
        return None, [Finding(Topic.SOURCE, says, "Choose one of the servers that report, or give the model.")], None
    return (*_reported(announced), announced)


def _directory(path: str) -> tuple[str, list[Finding]]:
    """The directory itself, or that of the named package that is meant; or what is wrong with the name."""
    if not packages.is_name(path):
        return path, []
    package = packages.find(path)
    if package is not None:
        return package.path, []
    there = ", ".join(each.name for each in packages.prepared()) or "none"
    says = f"No package {path!r} is prepared on this machine; prepared: {there}."
    fix = (
        f"Prepare it, if it is one that Aurora knows: .venv/bin/python -m serving.model_sources {path} --out "
        f"{settings.STATE_DIR / 'models' / path}. Or give a prepared one, or a checkpoint directory, from / on."
    )
    return "", [Finding(Topic.SOURCE, says, fix)]


def _reported(announced: AnnouncedReplica) -> tuple[TargetFacts | None, list[Finding]]:
    """A directory that the console sees is read itself; else the server's config.json has to do."""
    path = announced.model_path
    if not path.startswith("/"):
        return inspect_served("", path, announced.config, settings.MODELS_DIR)
    if os.path.isdir(path):
        return inspect_served(path, "", None, settings.MODELS_DIR)
    return inspect_reported(path, announced.config)


def _draft(origin: Origin, facts: TargetFacts) -> tuple[str, SpeculatorVersion | None, list[Finding]]:
    """Directory and version that version 1 is made of, and what there is to say about it."""
    if origin.draft_path and origin.draft_version:
        says = "Draft: either an imported checkpoint or a copy of a version can be the first one."
        return "", None, [Finding(Topic.DRAFT, says, "Give draft_path or draft_version.")]
    is_embedded = origin.source == Source.EMBEDDED
    if origin.draft_path:
        path, found = inspect_draft(origin.draft_path, facts, is_embedded=is_embedded)
        return path, None, found or [ok(Topic.DRAFT, f"Version 1 is made of the checkpoint in {path}.")]
    if origin.draft_version:
        version = find_copied(origin.draft_version)
        if version is None:
            says = f"Draft: there is no version {origin.draft_version!r}."
            return "", None, [Finding(Topic.DRAFT, says, "Name target and number of one, like demo:3.")]
        found = inspect_copy(version, facts, is_embedded=is_embedded)
        return version.uri, version, found or [ok(Topic.DRAFT, f"Version 1 is a copy of {version}.")]
    return (
        "",
        None,
        [ok(Topic.DRAFT, "Version 1 has random weights: served at once, it learns from the first request.")],
    )


def find_copied(name: str) -> SpeculatorVersion | None:
    """The version called ``target:number``."""
    slug, _, number = name.rpartition(":")
    if not (number.isascii() and number.isdigit() and len(number) < 10) or "\0" in slug:
        return None
    return SpeculatorVersion.objects.select_related("target").filter(target__slug=slug, number=int(number)).first()


def _launched_with(announced: AnnouncedReplica, facts: TargetFacts) -> list[Finding]:
    """A server captures the layers of the draft on its launch line, and takes up no version of another shape."""
    captured, own = list(announced.aux_layer_ids), list(aux_layer_ids(facts.num_layers))
    draft = announced.draft_path or "the draft on its launch line"
    fix = f"Begin with {draft}, or restart the server with version 1."
    if captured and captured != own:
        says = f"The server captures the layers {captured}, a new draft reads {own}: it cannot take that one up."
        return [warning(Topic.LAYERS, says, fix)]
    if announced.draft_path:
        says = f"The server runs {draft}: it takes version 1 up only if it has the same shape."
        return [warning(Topic.DRAFT, says, fix)]
    return []


def _memory(facts: TargetFacts, source: str) -> Finding:
    parts = estimates.memory(facts, source)
    sums = {where: sum(p.num_bytes for p in parts if p.where == where) for where in ("server", "trainer")}
    lists = {w: ", ".join(f"{p.name} {p.gib:.2f}" for p in parts if p.where == w) for w in sums}
    how = " ".join(f"{part.name}: {part.how}." for part in parts)
    says = "; ".join(f"{w} {sums[w] / estimates.GIB:.2f} GiB ({lists[w]})" for w in sums)
    says = f"Estimate: {says}."
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if source == Source.EMBEDDED and sum(sums.values()) > has:
        fix = f"This machine has {has / estimates.GIB:.1f} GiB: serve it with SGLang on another one."
        return warning(Topic.MEMORY, says, fix, how)
    return ok(Topic.MEMORY, says, how)


def _bandwidth(facts: TargetFacts, tokens_per_second: float) -> Finding:
    found = estimates.bandwidth(facts, tokens_per_second)
    hours = kept().segment_hours
    stored = found.bytes_per_token * tokens_per_second * hours * 3600 / estimates.GIB
    says = (
        f"Estimate: {found.bytes_per_token / 1024:,.4g} KiB per token, {found.megabytes_per_second:,.4g} MB/s at "
        f"{tokens_per_second:,.6g} tokens/s to storage that server and trainer share; {stored:,.4g} GiB in the "
        f"{hours:g} h that they are kept."
    )
    quota = estimates.SEGMENT_QUOTA_GIB
    if stored > quota:
        minutes = quota / stored * hours * 60
        says += (
            f" A server keeps {quota} GiB of them unless AURORA_SEGMENT_QUOTA_MIB says else, here the last "
            f"{minutes:,.3g} minutes: what is trained on later is computed anew by the trainer."
        )
    return ok(Topic.BANDWIDTH, says, found.how)


def _engine(origin: Origin, announced: AnnouncedReplica | None) -> Finding:
    if origin.source == Source.EMBEDDED:
        return ok(Topic.ENGINE, f"The embedded engine of this Aurora, {settings.CODE_VERSION}.")
    return engine_finding(announced.engine if announced else "")
