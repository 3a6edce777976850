"""Pins of single domains: a fixed lookahead, no speculation, no training."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Field, Router

from aurora_web.accounts.auth import Allow, caller
from aurora_web.problems import Problem
from aurora_web.registry.models import Target
from aurora_web.registry.services import find_target
from aurora_web.rollouts.answers import PinBoardOut, PinChangeOut, PinOut, PinUndoneOut
from aurora_web.rollouts.obedience import board, obedience, pin_payload
from aurora_web.traces import pins
from aurora_web.traces.naming import NamingHistory
from aurora_web.wire import BodySchema, Documented, ReasonText
from speculators.records import DomainPin

router = Router(tags=["domains"], auth=Allow("read"))
MAX_CHANGES = 500
PinAnswer = Annotated[dict[str, Any], Documented(PinOut)]


class PinIn(BodySchema):
    lookahead: int | None = Field(None, description="drafts per verify step, 1 to 8; null = the engine chooses")
    speculation_off: bool = False
    no_training: bool = Field(False, description="requests are counted, but no traces are kept or trained on")
    reason: ReasonText = ""
    expected_revision: int | None = Field(
        None, description="the revision that you saw, 0 = no pin; 409 when it changed"
    )


def _held(target: Target, name: str) -> dict[str, Any]:
    change = pins.held(target).get(name)
    if change is None:
        raise Problem(404, f"nothing is pinned for {name!r:.120} of {target.slug}")
    return pin_payload(obedience(change, list(target.replicas.all()), NamingHistory(target, change.at)))


@router.get("/{slug}/pins", response=Annotated[dict[str, Any], Documented(PinBoardOut)])
def list_pins(request: HttpRequest, slug: str) -> dict[str, Any]:
    """Every pin that holds, and which replicas obey it; ``revision`` counts the changes."""
    found = board(find_target(slug))
    return {"revision": found.revision, "pins": [pin_payload(each) for each in found.pins]}


@router.get("/{slug}/pins/changes", response=Annotated[list[dict[str, Any]], Documented(list[PinChangeOut])])
def list_changes(request: HttpRequest, slug: str, limit: int = 50) -> list[dict[str, Any]]:
    """The last changes of pins, newest first; ``is_newest``: of its domain, so that it can be undone."""
    if not 1 <= limit <= MAX_CHANGES:
        raise Problem(422, f"limit is {limit}, expected 1 to {MAX_CHANGES}")
    return [
        {
            "revision": change.revision,
            "domain": change.domain,
            "words": change.words,
            "undoes": change.undoes,
            "actor": change.actor,
            "reason": change.reason,
            "at": change.at.timestamp(),
            "is_newest": is_newest,
        }
        for change, is_newest in pins.history(find_target(slug), limit)
    ]


@router.post(
    "/{slug}/pins/{revision}/undo", response=Annotated[dict[str, Any], Documented(PinUndoneOut)], auth=Allow("operate")
)
def undo_pin(request: HttpRequest, slug: str, revision: int) -> dict[str, Any]:
    """Bring back what held before a change: ``{"domain", "revision", "undoes", "words"}``. 409 when it is not
    its domain's newest any more."""
    change = pins.undo(find_target(slug), revision, caller(request).name)
    return {"domain": change.domain, "revision": change.revision, "undoes": revision, "words": change.words}


@router.get("/{slug}/domains/{path:name}/pin", response=PinAnswer)
def get_pin(request: HttpRequest, slug: str, name: str) -> dict[str, Any]:
    """What is pinned for one domain, and which replicas obey it; 404 when nothing is."""
    return _held(find_target(slug), name)


@router.put("/{slug}/domains/{path:name}/pin", response=PinAnswer, auth=Allow("operate"))
def put_pin(request: HttpRequest, slug: str, name: str, body: PinIn) -> dict[str, Any]:
    """Fix this and nothing else for a domain. The same again changes nothing, unless rules for names have taken
    requests from the pin: then it is made anew for those that it meets now. 422 names the field."""
    target = find_target(slug)
    wanted = DomainPin(name, body.lookahead, body.speculation_off, body.no_training)
    try:
        pins.pin(target, wanted, caller(request).name, body.reason[:500], body.expected_revision)
    except pins.PinError as error:
        raise Problem(422, str(error), field=error.field) from error
    return _held(target, name)


@router.delete("/{slug}/domains/{path:name}/pin", response={204: None}, auth=Allow("operate"))
def delete_pin(request: HttpRequest, slug: str, name: str, reason: ReasonText = "") -> tuple[int, None]:
    """Nothing is fixed for a domain any more; 404 when nothing was."""
    target = find_target(slug)
    try:
        pins.unpin(target, name, caller(request).name, reason[:500])
    except (pins.PinError, pins.PinChanged) as error:
        raise Problem(404, str(error)) from error
    return 204, None
