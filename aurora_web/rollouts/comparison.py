"""Two to four versions of one target side by side: what they measured, what their replay says, what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aurora_web.metrics.by_version import Served, curve, served_by_domain
from aurora_web.metrics.ratios import Interval, Moments, ratio_of_ratios, stratified
from aurora_web.moments import said
from aurora_web.numbers import grouped
from aurora_web.registry.models import SpeculatorVersion, Target
from aurora_web.registry.provenance import NONE, differences, flatten, provenance
from aurora_web.rollouts.replayed import replay_moments
from aurora_web.traces.positions import Positions, measured_positions
from aurora_web.training.learnt import Learnt, learnt_from
from speculators.records import DomainScore, EvalReport

LEAST, MOST = 2, 4
TOTAL = ""  # the row over all domains


class ComparisonError(ValueError):
    """Versions that cannot be compared; the message says what would be right."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One version in one domain; ``change`` is over the first version, None in the first column."""

    accept_length: float | None
    num_units: int
    change: Interval | None


@dataclass(frozen=True, slots=True)
class Row:
    domain: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The first version is what the others are compared with."""

    versions: tuple[SpeculatorVersion, ...]
    measured: tuple[Row, ...]
    replayed: tuple[Row, ...]
    positions: tuple[Positions, ...]  # of traces that each has served
    replay_positions: tuple[Positions, ...]  # of the held-out traces of each report
    learnt: tuple[Learnt | None, ...]  # the window of traces that each was trained on
    config: tuple[tuple[str, list[str]], ...]
    data: tuple[tuple[str, list[str]], ...]


def choose(target: Target, numbers: Sequence[str]) -> list[SpeculatorVersion]:
    """The versions with these numbers, in this order, each once. Raises ComparisonError."""
    wrong = [given for given in numbers if not (given.isascii() and given.isdigit() and len(given) < 9)]
    if wrong:
        raise ComparisonError(f"v={wrong[0]!r:.40} is no version number: expected v=3&v=7")
    wanted = list(dict.fromkeys(int(given) for given in numbers))
    if not LEAST <= len(wanted) <= MOST:
        chosen = f"{len(wanted)} version{'s are' if len(wanted) != 1 else ' is'} chosen"
        raise ComparisonError(f"{chosen}: choose {LEAST} to {MOST}")
    found = {v.number: v for v in target.versions.filter(number__in=wanted).select_related("parent", "gate_decision")}
    if missing := [f"v{number}" for number in wanted if number not in found]:
        raise ComparisonError(f"{target.slug} has no {', '.join(missing)}")
    return [found[number] for number in wanted]


def compare(target: Target, versions: Sequence[SpeculatorVersion]) -> Comparison:
    """Everything but the curves, which the chart fetches."""
    served = served_by_domain(target, [version.number for version in versions])
    reports = [_scores(version) for version in versions]
    learnt = tuple(learnt_from(version) for version in versions)
    domains = sorted({domain for window in learnt if window for domain, _ in window.domains})
    facts = [_origin(version, window, domains) for version, window in zip(versions, learnt, strict=True)]
    return Comparison(
        versions=tuple(versions),
        measured=_table([_measured(served, version.number) for version in versions], "windows"),
        replayed=_table([{s.domain: replay_moments(s) for s in report} for report in reports], "traces"),
        positions=tuple(measured_positions(target, version.number) for version in versions),
        replay_positions=tuple(_replay_positions(report) for report in reports),
        learnt=learnt,
        config=tuple(differences([flatten(version.config) for version in versions])),
        data=tuple(differences(facts)),
    )


def _origin(version: SpeculatorVersion, window: Learnt | None, domains: Sequence[str]) -> dict[str, str]:
    """By label, in words: the parent, the window of traces that it learnt from, and its provenance."""
    parent = f"v{version.parent.number}" if version.parent else NONE
    return {"Parent": parent, **_window(window, domains), **dict(provenance(version))}


def _window(window: Learnt | None, domains: Sequence[str]) -> dict[str, str]:
    """New traces that are still kept: how many, of which domains, and when they were served."""
    counts = dict(window.domains) if window else {}
    first, last = (window.first_at, window.last_at) if window else (None, None)
    return {
        "New traces that its steps have seen": grouped(window.num_traces) if window else NONE,
        "First of them served": said(first) if first else NONE,
        "Last of them served": said(last) if last else NONE,
        **{f"Of them {domain}": grouped(counts.get(domain, 0)) for domain in domains},
    }


def curves_payload(target: Target, versions: Sequence[SpeculatorVersion]) -> list[dict[str, Any]]:
    """For the chart: counts over time, and the replay's accept length (None without a report)."""
    return [
        {
            "number": version.number,
            "status": version.status,
            "replayed": version.accept_length(),
            "points": curve(target, version.number),
        }
        for version in versions
    ]


def comparison_payload(target: Target, found: Comparison) -> dict[str, Any]:
    """The comparison as the API gives it."""
    return {
        "versions": curves_payload(target, found.versions),
        "measured": [_row_payload(row) for row in found.measured],
        "replayed": [_row_payload(row) for row in found.replayed],
        "positions": [_positions_payload(each) for each in found.positions],
        "replay_positions": [_positions_payload(each) for each in found.replay_positions],
        "learnt": [_learnt_payload(window) for window in found.learnt],
        "config": [{"name": name, "values": values} for name, values in found.config],
        "data": [{"name": name, "values": values} for name, values in found.data],
    }


def _learnt_payload(window: Learnt | None) -> dict[str, Any] | None:
    if window is None:
        return None
    return {
        "num_slices": window.num_slices,
        "num_traces": window.num_traces,
        "first_at": window.first_at,
        "last_at": window.last_at,
        "domains": dict(window.domains),
    }


def _row_payload(row: Row) -> dict[str, Any]:
    cells = [
        {
            "accept_length": cell.accept_length,
            "num_units": cell.num_units,
            "change": cell.change.to_json() if cell.change else None,
        }
        for cell in row.cells
    ]
    return {"domain": row.domain, "cells": cells}


def _positions_payload(found: Positions) -> dict[str, Any]:
    return {"num_traces": found.num_traces, "proposed": list(found.proposed), "correct": list(found.correct)}


Side = dict[str, Moments]  # by domain: x = accept tokens, y = verify steps


def _measured(served: Sequence[Served], number: int) -> Side:
    return {row.domain: row.accept for row in served if row.version == number and row.accept.n}


def _scores(version: SpeculatorVersion) -> tuple[DomainScore, ...]:
    return EvalReport.from_json(version.report).candidate if version.report else ()


def _table(sides: Sequence[Side], unit: str) -> tuple[Row, ...]:
    """One row over all domains, and one for each that any side has."""
    domains = sorted({domain for side in sides for domain in side})
    if not domains:
        return ()
    first = sides[0]
    rows = [Row(domain, tuple(_cell(side, first, [domain], unit) for side in sides)) for domain in domains]
    return (Row(TOTAL, tuple(_cell(side, first, domains, unit) for side in sides)), *rows)


def _cell(side: Side, first: Side, domains: Sequence[str], unit: str) -> Cell:
    """Sums over these domains; the change is taken within each domain and weighted by this side's steps."""
    ours = [side[domain] for domain in domains if domain in side]
    steps = sum(moments.sum_y for moments in ours)
    ratio = sum(moments.sum_x for moments in ours) / steps if steps else None
    num_units = sum(moments.n for moments in ours)
    return Cell(ratio, num_units, None if side is first else _change(side, first, domains, unit))


def _change(side: Side, first: Side, domains: Sequence[str], unit: str) -> Interval:
    both = [domain for domain in domains if domain in side and domain in first]
    if not both:
        return Interval(None, None, None, "no data on both sides")
    compared = [
        (ratio_of_ratios(side[d], first[d], a_name="own", b_name="first version's", unit=unit), float(side[d].sum_y))
        for d in both
    ]
    return stratified(sorted(compared, key=lambda pair: -pair[1]))


def _replay_positions(scores: Sequence[DomainScore]) -> Positions:
    counted = [score for score in scores if score.proposed_by_position]
    length = max((len(score.proposed_by_position) for score in counted), default=0)

    def total(name: str) -> tuple[int, ...]:
        rows = [getattr(score, name) for score in counted]
        return tuple(sum(row[i] for row in rows if i < len(row)) for i in range(length))

    num_traces = sum(score.num_traces for score in counted)
    return Positions(num_traces, total("proposed_by_position"), total("correct_by_position"))
