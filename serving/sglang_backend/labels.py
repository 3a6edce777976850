"""A request's domain and its wish not to be learnt from, on their way from HTTP to SGLang's scheduler.

Of what a client can say, SGLang 0.5.21 hands the scheduler the routing key (header ``x-smg-routing-key``) and the
sampling field ``custom_params``; other headers and ``custom_labels`` end in the HTTP process. So a hook there appends
the two Aurora headers to the routing key, which nothing but the opt-in ``routing-key`` schedule policy reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_DOMAIN = "default"
DOMAIN = re.compile(r"[a-z0-9_.-]{1,64}")
MARK = "|aurora:"
NO_TRAIN = "no-train"


@dataclass(frozen=True, slots=True)
class Label:
    """What the scheduler knows of a request's origin."""

    domain: str = DEFAULT_DOMAIN
    is_trace: bool = True


def with_headers(routing_key: str | None, headers: Mapping[str, str]) -> str | None:
    """The routing key with the Aurora headers in it; unchanged where there are none."""
    domain, wish = headers.get("x-aurora-domain"), headers.get("x-aurora-no-train")
    if domain is None and wish is None:
        return routing_key
    is_trace = (wish or "").strip().lower() in ("", "0", "false")
    return f"{routing_key or ''}{MARK}{domain or ''}:{'' if is_trace else NO_TRAIN}"


def label_of(routing_key: str | None, custom_params: Any) -> Label:
    """Read back what ``with_headers`` wrote, else ``custom_params`` ({"aurora_domain", "aurora_no_train"}).

    A domain that is no domain name counts as the default one: the request is served already.
    """
    if routing_key and MARK in routing_key:
        domain, _, wish = routing_key.rpartition(MARK)[2].partition(":")
        return Label(_domain(domain), wish != NO_TRAIN)
    if isinstance(custom_params, dict):
        is_trace = custom_params.get("aurora_no_train") in (None, False, 0, "0", "", "false")
        return Label(_domain(custom_params.get("aurora_domain")), is_trace)
    return Label()


def _domain(value: Any) -> str:
    return value if isinstance(value, str) and DOMAIN.fullmatch(value) else DEFAULT_DOMAIN
