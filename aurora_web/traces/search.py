"""Which traces match: filters from an address, one page at a time by key, counts that stop at a bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.db import OperationalError, connection, transaction
from django.db.models import F, FloatField, Func, IntegerField, Q, QuerySet
from django.db.models.lookups import GreaterThanOrEqual, LessThanOrEqual
from django.utils import timezone
from psycopg.errors import QueryCanceled

from aurora_web.moments import WrongMoment, moment_of
from aurora_web.registry.models import Target
from aurora_web.traces.models import Trace

PAGE = 50
MAX_PAGE = 500
COUNT_LIMIT = 1000
SEARCH_MS = 2000  # Postgres stops a search that takes longer
FIELDS = ("since", "until", "version", "domain", "min_accept_length", "max_accept_length", "finish_reason", "state",
          "slices")  # fmt: skip
MAX_SLICES = 100
FINISH_REASONS = ("stop", "length")
# Of the steps with drafts, NULL without any; as the index traces_trace_by_accept_length has it.
ACCEPT_LENGTH = Func(
    template="(num_correct_drafts + num_verify_steps - num_plain_steps)::float8"
    " / NULLIF(num_verify_steps - num_plain_steps, 0)",
    output_field=FloatField(),
)
STATES = ("trained", "held out", "waiting", "leased", "lost")  # as Trace.state says them


class SearchError(ValueError):
    """A filter that cannot be used; ``field`` names it and the message says what would be right."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class SearchTooSlow(RuntimeError):
    """The search took longer than SEARCH_MS."""

    def __init__(self) -> None:
        seconds = SEARCH_MS / 1000
        super().__init__(f"the search was stopped after {seconds:g} s: narrow the time, or leave a filter out")


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """What is searched for; None and "" mean anything."""

    since: datetime | None = None
    until: datetime | None = None
    version: int | None = None
    domain: str = ""
    min_accept_length: float | None = None
    max_accept_length: float | None = None
    finish_reason: str = ""
    state: str = ""
    slices: tuple[UUID, ...] = ()  # training slices that have taken the traces up

    @property
    def is_empty(self) -> bool:
        return self == TraceFilter()

    def where(self) -> Q:
        """The filter as a condition on traces."""
        found = Q()
        if self.since is not None:
            found &= Q(started_at__gte=self.since)
        if self.until is not None:
            found &= Q(started_at__lte=self.until)
        if self.version is not None:
            found &= Q(version=self.version)
        if self.domain:
            found &= Q(domain=self.domain)
        if self.finish_reason:
            found &= Q(finish_reason=self.finish_reason)
        if self.state:
            found &= _in_state(self.state)
        if self.slices:
            found &= Q(lease_id__in=self.slices)
        return found & self._accept_length()

    def _accept_length(self) -> Q:
        found = Q()
        if self.min_accept_length is not None:
            found &= Q(GreaterThanOrEqual(ACCEPT_LENGTH, self.min_accept_length))
        if self.max_accept_length is not None:
            found &= Q(LessThanOrEqual(ACCEPT_LENGTH, self.max_accept_length))
        return found


def _in_state(state: str) -> Q:
    """Traces of which Trace.state says this now."""
    is_leased = Q(lease_expires_at__gt=timezone.now())
    untrained = Q(is_held_out=False, trained_at=None)
    found = {
        "held out": Q(is_held_out=True),
        "trained": Q(is_held_out=False, trained_at__isnull=False),
        "lost": untrained & Q(is_lost=True),
        "leased": untrained & Q(is_lost=False) & is_leased,
        "waiting": untrained & Q(is_lost=False) & (Q(lease_expires_at=None) | ~is_leased),
    }
    return found[state]


def read_filter(given: Mapping[str, str]) -> TraceFilter:
    """The filter that an address asks for. Raises SearchError naming the field."""
    asked = {name: str(given.get(name, "")).strip() for name in FIELDS}
    return TraceFilter(
        since=_moment("since", asked["since"]),
        until=_moment("until", asked["until"]),
        version=_version(asked["version"]),
        domain=_domain(asked["domain"]),
        min_accept_length=_length("min_accept_length", asked["min_accept_length"]),
        max_accept_length=_length("max_accept_length", asked["max_accept_length"]),
        finish_reason=_choice("finish_reason", asked["finish_reason"], FINISH_REASONS),
        state=_choice("state", asked["state"].replace("_", " "), STATES),
        slices=_slices("slices", asked["slices"]),
    )


def _moment(field: str, value: str) -> datetime | None:
    try:
        return moment_of(field, value)
    except WrongMoment as error:
        raise SearchError(field, error.message) from None


def _version(value: str) -> int | None:
    value = value.removeprefix("v")
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise SearchError("version", f"{value!r:.60} is no version: expected a number, 0 for the control")
    return int(value)


def _domain(value: str) -> str:
    if len(value) > 100 or "\0" in value:
        raise SearchError("domain", f"{value!r:.60} is no domain: expected at most 100 characters")
    return value


def _length(field: str, value: str) -> float | None:
    if not value:
        return None
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1000:
        raise SearchError(field, f"{value!r:.60} is no accept length: expected a number from 1 to lookahead + 1")
    return found


def _choice(field: str, value: str, choices: tuple[str, ...]) -> str:
    if value and value not in choices:
        raise SearchError(field, f"{value!r:.60} is unknown: expected one of {', '.join(choices)}")
    return value


def _slices(field: str, value: str) -> tuple[UUID, ...]:
    names = [part.strip() for part in value.split(",")] if value else []
    if len(names) > MAX_SLICES:
        raise SearchError(field, f"{len(names)} ids are too many: expected {MAX_SLICES} at most")
    try:
        return tuple(UUID(hex=name) for name in names)
    except ValueError:
        raise SearchError(field, f"{value!r:.60} is no list of slices: expected their ids, with commas") from None


@dataclass(frozen=True, slots=True)
class Found:
    """One page of a search, newest first."""

    traces: list[Trace]
    next: str  # cursor of the next page; "" on the last


def search(target: Target, wanted: TraceFilter, cursor: str = "", limit: int = PAGE) -> Found:
    """The next ``limit`` traces from ``cursor`` on. Raises SearchError for a bad cursor, SearchTooSlow."""
    keys = Trace.objects.filter(wanted.where(), target=target)
    if cursor:
        keys = keys.filter(after(cursor))
    ordered = keys.order_by("-started_at", "-trace_id").values_list("trace_id", "started_at")
    with bounded():
        found: list[tuple[UUID, datetime]] = list(ordered[: limit + 1])
    page = found[:limit]
    return Found(_rows(target, page), write_cursor(page[-1]) if len(found) > limit else "")


def after(cursor: str) -> Q:
    """What comes after a place in the order of a search. Raises SearchError for a bad cursor."""
    at, trace_id = read_cursor(cursor)
    return Q(started_at__lte=at) & (Q(started_at__lt=at) | Q(trace_id__lt=trace_id))


def _rows(target: Target, keys: list[tuple[UUID, datetime]]) -> list[Trace]:
    """The traces with these keys in their order, without tokens and steps."""
    if not keys:
        return []
    times = [at for _, at in keys]
    chosen = Trace.objects.filter(
        target=target,
        trace_id__in=[trace_id for trace_id, _ in keys],
        started_at__gte=min(times),
        started_at__lte=max(times),
    )
    by_id = {trace.trace_id: trace for trace in light(chosen)}
    return [by_id[trace_id] for trace_id, _ in keys if trace_id in by_id]


def light(traces: QuerySet[Trace]) -> QuerySet[Trace]:
    """Without tokens and steps, and with ``num_tokens`` (prompt and generated)."""
    counted = Func(F("tokens"), function="cardinality", output_field=IntegerField())
    return traces.defer("tokens", "steps").annotate(num_tokens=counted)


def count(target: Target, wanted: TraceFilter, first: Found | None = None) -> int | None:
    """How many traces match, counted up to COUNT_LIMIT + 1; None when counting takes too long.

    ``first``, the first page of the search when it was read already, is counted and not searched again.
    """
    num_seen, matching = 0, Trace.objects.filter(wanted.where(), target=target)
    if first is not None:
        num_seen = len(first.traces)
        if not first.next:
            return num_seen
        matching = matching.filter(after(first.next))
    try:
        with bounded():
            return num_seen + matching.values("trace_id")[: COUNT_LIMIT + 1 - num_seen].count()
    except SearchTooSlow:
        return None


@contextmanager
def bounded() -> Iterator[None]:
    """A transaction in which Postgres stops a statement after SEARCH_MS. Raises SearchTooSlow then."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {SEARCH_MS}")
            yield
            cursor.execute("SET LOCAL statement_timeout = 0")  # the transaction may be a part of a longer one
    except OperationalError as error:
        if isinstance(error.__cause__, QueryCanceled):
            raise SearchTooSlow() from error
        raise


def write_cursor(key: tuple[UUID, datetime]) -> str:
    """A place in the order of traces as text."""
    trace_id, at = key
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return f"{(at - epoch) // timedelta(microseconds=1)}-{trace_id.hex}"


def read_cursor(cursor: str) -> tuple[datetime, UUID]:
    """The inverse of write_cursor. Raises SearchError."""
    microseconds, _, digits = cursor.partition("-")
    try:
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(microseconds))
        return at, UUID(hex=digits)
    except (ValueError, OverflowError):
        raise SearchError("cursor", f"{cursor!r:.60} is no cursor: expected the value of next") from None


def domains(target: Target, limit: int = 200) -> list[str]:
    """Domains of the target's held-out traces (every tenth is one), by jumps through their index."""
    with connection.cursor() as cursor:
        cursor.execute(_DOMAINS, {"target": target.pk, "limit": limit})
        return [row[0] for row in cursor.fetchall()]


# A loose index scan: one probe a domain, however many traces there are.
_DOMAINS = """
WITH RECURSIVE names AS (
    (SELECT domain FROM traces_trace WHERE target_id = %(target)s AND is_held_out ORDER BY domain LIMIT 1)
    UNION ALL
    SELECT (SELECT t.domain FROM traces_trace t
            WHERE t.target_id = %(target)s AND t.is_held_out AND t.domain > n.domain ORDER BY t.domain LIMIT 1)
    FROM names n WHERE n.domain IS NOT NULL
)
SELECT domain FROM names WHERE domain IS NOT NULL LIMIT %(limit)s
"""
