"""A request's domain and its wish not to be learnt from, on their way from HTTP to SGLang's scheduler.

Of what a client can say, SGLang 0.5.21 hands the scheduler the routing key (header ``x-smg-routing-key``) and the
sampling field ``custom_params``; other headers and ``custom_labels`` end in the HTTP process. So a hook there appends a
mark to the routing key, which only the opt-in ``routing-key`` schedule policy and SGLang's own statistics of routing
keys read: these count Aurora's marks as keys. A proxy may have put one
into it before. Any wish not to be learnt from counts; where nobody has looked at the headers, nothing is learnt. The
hook also says that it was there, whatever it was given: a process without it would look like clients without wishes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from speculators.domain_names import CLIENTS_NAME

DEFAULT_DOMAIN = "default"
MARK = "|aurora:"
NO_TRAIN = "no-train"
SEEN = "|aurora-seen"
WARM_UP = "|aurora-warm-up"  # at the end, where only the hook itself can have put it


@dataclass(frozen=True, slots=True)
class Label:
    """What the scheduler knows of a request's origin."""

    domain: str = DEFAULT_DOMAIN
    is_trace: bool = True
    is_traffic: bool = True  # False: SGLang's own, which no client has sent


def with_headers(routing_key: str | None, headers: Mapping[str, str]) -> str:
    """The routing key with what the Aurora headers say in it."""
    wish = headers.get("x-aurora-no-train", "").strip().lower()
    domain = headers.get("x-aurora-domain", "")
    return f"{seen(routing_key)}{MARK}{domain}:{'' if wish in ('', '0', 'false') else NO_TRAIN}"


def seen(routing_key: str | None) -> str:
    """The routing key of a request that the hook has seen, without headers to look at."""
    return f"{routing_key or ''}{SEEN}"


def of_warm_up(routing_key: str) -> str:
    """The routing key, as the hook leaves it, of a request before the server says that it is ready."""
    return f"{routing_key}{WARM_UP}"


def was_seen(routing_key: str | None) -> bool:
    """Whether the hook was there."""
    return SEEN in (routing_key or "")


def label_of(routing_key: str | None, custom_params: Any) -> Label:
    """Read back the marks of the routing key, and ``custom_params`` ({"aurora_domain", "aurora_no_train"}).

    The last mark that names a domain names it. A domain that is no domain name counts as the default one: the request
    is served already.
    """
    is_warm_up = (routing_key or "").endswith(WARM_UP)
    marks = (routing_key or "").removesuffix(WARM_UP).replace(SEEN, "").split(MARK)[1:]
    params = custom_params if isinstance(custom_params, dict) else {}
    domains = [params.get("aurora_domain"), *(_parts(mark)[0] for mark in marks)]
    was_asked = bool(marks) or "aurora_domain" in params or "aurora_no_train" in params
    refused = params.get("aurora_no_train") not in (None, False, 0, "0", "", "false")
    is_trace = was_asked and not refused and not any(_parts(mark)[1] for mark in marks)
    domain = _domain(next((name for name in reversed(domains) if name), None))
    return Label(domain, is_trace, is_traffic=not is_warm_up)


def _parts(mark: str) -> tuple[str, str]:
    """Domain and wish; a domain may have colons in it, and a mark that a person has typed may have no wish."""
    domain, colon, wish = mark.rpartition(":")
    return (domain, wish) if colon else (mark, "")


def _domain(value: Any) -> str:
    return value if isinstance(value, str) and CLIENTS_NAME.fullmatch(value) else DEFAULT_DOMAIN
