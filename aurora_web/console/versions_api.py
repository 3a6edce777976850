"""One version for scripts: what its page says, and its files."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from ninja import Router

from aurora_web.accounts.auth import Allow, caller
from aurora_web.console.answers import VersionDetail
from aurora_web.console.versions import file_answer, served_periods
from aurora_web.problems import Problem
from aurora_web.registry.models import SpeculatorVersion
from aurora_web.registry.services import find_target
from aurora_web.registry.version_files import list_files
from aurora_web.rollouts.gate_table import gate_rows
from aurora_web.rollouts.models import GateDecision
from aurora_web.training.learnt import learnt_from
from aurora_web.wire import file_schema

router = Router(tags=["versions"], auth=Allow("read"))
DECISION = ("passed", "reasons", "policy", "accept_length", "gain", "gain_low", "gain_high", "predicted_speedup",
            "live_predicted_speedup", "at", "live_number")  # fmt: skip


def _find(slug: str, number: int) -> SpeculatorVersion:
    rows = SpeculatorVersion.objects.filter(target=find_target(slug), number=number).select_related("target", "parent")
    found = rows.first()
    if found is None:
        raise Problem(404, f"{slug} has no version {number}")
    return found


@router.get("/{slug}/versions/{int:number}", response=VersionDetail)
def get_version(request: HttpRequest, slug: str, number: int) -> dict[str, Any]:
    """Verdict, periods in service, files with checksums, what it learnt from, and everything that happened to it."""
    found = _find(slug, number)
    learnt = learnt_from(found)
    return {
        "version": found,
        "gate": _gate(found),
        "served": [asdict(row.pop("period")) | row for row in served_periods(found)],
        "files": [{"name": f.name, "size_bytes": f.size_bytes, "sha256": f.sha256} for f in list_files(found)],
        "learnt": learnt and asdict(learnt) | {"domains": dict(learnt.domains)},
        "children": list(found.children.order_by("number").values_list("number", flat=True)),
        "transitions": list(found.transitions.values("old", "new", "reason", "actor", "at")),
        "approvals": list(found.approvals.values("is_approved", "actor", "reason", "at")),
    }


def _gate(found: SpeculatorVersion) -> dict[str, Any] | None:
    decision = GateDecision.objects.select_related("version").filter(version=found).first()
    if decision is None:
        return None
    return {name: getattr(decision, name) for name in DECISION} | {"rows": [asdict(r) for r in gate_rows(decision)]}


@router.get(
    "/{slug}/versions/{int:number}/files/{name}",
    response=None,
    auth=Allow("operate"),
    openapi_extra=file_schema("The file", "application/octet-stream", "application/json"),
)
def get_file(request: HttpRequest, slug: str, number: int, name: str) -> HttpResponse:
    """One file of a version as a stream of bytes."""
    try:
        return file_answer(_find(slug, number), name, caller(request).name)  # type: ignore[return-value]
    except Http404 as error:
        raise Problem(404, str(error)) from error
