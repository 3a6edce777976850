"""Who may read the text of traces, and writes about that: access, deletion."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from django.db import transaction

from aurora_web.accounts.scopes import allows
from aurora_web.accounts.services import record
from aurora_web.registry.models import Target
from aurora_web.traces.models import DeletedTrace, TextRole, Trace, TraceAccess, TraceSegment

_SCOPE = {TextRole.VIEWER: "read", TextRole.OPERATOR: "operate", TextRole.ADMIN: "administer"}


class GovernanceError(ValueError):
    """What a person asked for about traces cannot be done; the message says what would be right."""


def text_role(target: Target) -> str:
    """The least role that may read text."""
    row = TraceAccess.objects.filter(target=target).first()
    return row.text_role if row else TextRole.OPERATOR


def may_read_text(target: Target, scopes: Collection[str]) -> bool:
    """Whether somebody with these scopes sees tokens, or only lengths and outcomes."""
    return allows(scopes, _SCOPE[TextRole(text_role(target))])


@transaction.atomic
def set_text_role(target: Target, role: str, actor: str, reason: str = "") -> None:
    """Change who may read text. Raises GovernanceError for an unknown role."""
    if role not in TextRole.values:
        raise GovernanceError(f"text_role is {role!r:.40}: expected one of {', '.join(TextRole.values)}")
    access, _ = TraceAccess.objects.select_for_update().get_or_create(target=target)
    if access.text_role == role:
        return
    old, access.text_role = access.text_role, role
    access.save(update_fields=["text_role"])
    detail = {"old": {"text_role": old}, "new": {"text_role": role}}
    record(actor, "trace.access", target.slug, target_slug=target.slug, reason=reason, detail=detail)


@transaction.atomic
def delete_trace(target: Target, trace_id: UUID, actor: str, reason: str) -> DeletedTrace | None:
    """Delete one trace for good; None when there is none. Raises GovernanceError without a reason.

    Its row goes, and with it the only way to its hidden states: the trainer finds states by traces. Their bytes stay
    in the sealed segment file, which nothing changes, until the file expires.
    """
    if not reason.strip():
        raise GovernanceError("a reason is needed: deletion cannot be undone")
    trace = Trace.objects.filter(target=target, trace_id=trace_id).defer("tokens", "steps").first()
    if trace is None or not Trace.objects.filter(trace_id=trace_id, started_at=trace.started_at).delete()[0]:
        return None
    row = DeletedTrace.objects.create(
        trace_id=trace_id,
        target=target,
        segment_id=trace.segment_id,
        was_trained=trace.trained_at is not None,
        actor=actor,
        reason=reason.strip(),
    )
    detail = {"old": {"segment": trace.segment_id.hex, "domain": trace.domain, "was_trained": row.was_trained}}
    record(actor, "trace.delete", trace_id.hex, target_slug=target.slug, reason=row.reason, detail=detail)
    return row


def note_reading(target: Target, trace_id: UUID, actor: str) -> None:
    """Somebody has been shown the tokens or the text of one trace."""
    record(actor, "trace.read", trace_id.hex, target_slug=target.slug)


def what_stays(row: DeletedTrace) -> str:
    """What a deletion could not undo, in sentences."""
    segment = TraceSegment.objects.filter(pk=row.segment_id, expired_at=None).first()
    said = "Its hidden states were gone already."
    if segment is not None:
        said = (
            "Its hidden states are marked gone and no trainer reads them; their bytes stay in the sealed file "
            f"{segment.uri} until that expires."
        )
    if row.was_trained:
        said += " A version was trained on it: what it has learnt stays."
    return said
