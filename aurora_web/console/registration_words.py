"""What will happen when a registration is started, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from aurora_web.console.templatetags.figures import percent
from aurora_web.registry.checks import Origin
from aurora_web.registry.models import ApprovalPolicy, Target
from aurora_web.retention.services import kept


def sentences(target: Target, origin: Origin) -> list[tuple[str, str]]:
    """(about what, what will happen), for a target that is not saved yet."""
    return [
        ("Target", _what(target, origin)),
        ("Version 1", _first(target)),
        ("Serving", _serving(target, origin)),
        ("Learning", _learning(target)),
        ("New versions", " ".join(_gate(target))),
        ("Canary", _canary(target)),
        ("Domains", _domains(target)),
        ("Retention", _retention(target)),
    ]


def _what(target: Target, origin: Origin) -> str:
    named = target.slug if target.name == target.slug else f"{target.name} ({target.slug})"
    served = "served by SGLang servers of yours" if target.is_on_sglang else "served by the embedded engine"
    reported = f", as {origin.replica.partition('/')[2]} reported it" if origin.replica else ""
    return f"{named} is registered: {target.architecture} from {target.origin}{reported}, {served}."


def _first(target: Target) -> str:
    if target.draft_version is not None:
        return f"It is made within seconds, as a copy of {target.draft_version}; the two learn apart from then on."
    if target.draft_path:
        return f"It is made within seconds, of the EAGLE-3 checkpoint in {target.draft_path}."
    return "It is made within seconds, with random weights, and goes into service at once: output stays the target's."


def _serving(target: Target, origin: Origin) -> str:
    share = f"{percent(target.control_share)} of the steps are decoded without speculation, to measure the speedup."
    if target.traffic_enabled:
        share += " The generator of demo traffic sends as soon as a replica serves."
    if not target.is_on_sglang:
        return f"The embedded engine starts by itself. {share}"
    if origin.replica:
        return f"The server that reported is a replica of this target with its next report, within seconds. {share}"
    return f"Nothing starts by itself: the next page has the launch command and makes the servers' token. {share}"


def _learning(target: Target) -> str:
    seconds = f"{target.slice_seconds:g}"
    return (
        f"Finished requests are learnt from, unless the client says no, in slices of about {seconds} s; a part of them "
        "is held out for the gate. At most "
        f"{target.max_lookahead} drafts are proposed per verify step."
    )


def _gate(target: Target) -> Iterator[str]:
    yield (
        f"A candidate passes the gate with {percent(target.min_gain)} more accept length than the live version over at "
        f"least {target.min_held_out_traces} held-out traces, where no domain loses more than "
        f"{percent(target.domain_tolerance)}."
    )
    if target.approval == ApprovalPolicy.AUTOMATIC:
        yield "What passes goes live by itself."
    else:
        own = "" if target.may_approve_own else ", not the one who asked for it"
        yield f"What passes waits for a person ({target.get_approvers_display().lower()}{own})."
    if target.min_accept_length:
        yield f"A swap that measures an accept length below {target.min_accept_length:g} is undone."


def _canary(target: Target) -> str:
    if not target.canary_share:
        return "None: a new version goes to every replica at once."
    return (
        f"With two replicas or more, {percent(target.canary_share)} of them run a new version first, for at least "
        f"{target.canary_minutes:g} minutes and {target.canary_min_requests} requests on either side."
    )


def _domains(target: Target) -> str:
    if not target.expected_domains:
        return "They appear as clients name them in x-aurora-domain."
    return f"{', '.join(target.expected_domains)} have rows from the start; others appear as clients name them."


def _retention(target: Target) -> str:
    everywhere = kept()
    hours = f"Hidden states go after {everywhere.segment_hours:g} h."
    if target.trace_days is None:
        return f"Traces are kept for {everywhere.trace_days:g} days, as everywhere on this console. {hours}"
    days = f"{target.trace_days} day{'s' if target.trace_days != 1 else ''}"
    return f"Traces are kept for {days}, this target's own rule. {hours}"
