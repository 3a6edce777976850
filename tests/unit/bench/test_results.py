"""What becomes of a benchmark's output: figures against their goals, and a part of RESULTS.md for each."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from tests.bench import bench_costs
from tests.bench.__main__ import BENCHMARKS, facts
from tests.bench.bench_costs import verdict
from tests.bench.bench_lookahead import Tally, compared
from tests.bench.bench_plain import Turns
from tests.bench.figures import SECTIONS, Figure, Goal
from tests.bench.results import RESULTS, Record, put, rendered


def record(name: str, found: Any) -> Record:
    return Record(name, "python -m tests.bench.x", "abc1234", "1 May 2026", "a machine", found)


@pytest.mark.parametrize(
    ("goal", "measured", "verdict"),
    [
        (Goal(1.25, 1.8), 1.24, "missed"),
        (Goal(1.25, 1.8), 1.25, "met"),
        (Goal(1.25, 1.8), 1.8, "aim met"),
        (Goal(100, 30, is_less_better=True), 101, "missed"),
        (Goal(100, 30, is_less_better=True), 100, "met"),
        (Goal(100, 30, is_less_better=True), 29, "aim met"),
        (Goal(0, 0, is_less_better=True), 1, "missed"),
        (Goal(60, 10, is_less_better=True), None, "missed"),
    ],
)
def test_a_figure_is_held_against_its_goal_in_the_right_direction(
    goal: Goal, measured: float | None, verdict: str
) -> None:
    assert goal.verdict(measured) == verdict


def test_a_row_says_what_was_asked_for_and_what_was_found() -> None:
    figure = Figure("ingest", 2117.4, "", Goal(2000, 10_000), "one run")
    assert figure.row() == ["ingest", "2,000", "10,000", "2,117 (one run)", "met"]
    assert Figure("1.5x within", None, " s", Goal(120, 20, True)).row()[3:] == ["not reached", "missed"]
    assert Figure("a step", 6.6543, " ms").row() == ["a step", "", "", "6.65 ms", ""]


def line(seconds: int, accept: float, speedup: float | None, memory: int) -> dict[str, Any]:
    row = {
        "accept_length": accept,
        "tokens_per_second": 25.0,
        "without": 24.0,
        "speedup": [speedup, None if speedup is None else speedup - 0.05, None if speedup is None else speedup + 0.05],
        "requests": [200, 100],
    }
    return {
        "after_seconds": seconds, "live": seconds // 60, "held_out": [accept + 0.1, 4, 20], "versions": {"live": 1},
        "memory_mib": memory, "all": row, "chat": row,
    }  # fmt: skip


def test_the_hours_figures_are_of_the_right_minutes() -> None:
    starts = {"machine": "a machine", "first_start": 24.6, "second_start": 7.1}
    windows = [line(301, 1.3, 0.97, 3000), line(1202, 1.5, 1.1, 4200), line(3604, 1.6, 1.3, 3900)]
    end = [{"distinct_3grams": {"chat": 0.5}}, {"rejected": 4, "by": "policy", "because": "slower"}]
    section = SECTIONS["hour"]([starts, *windows, *end])
    found = {figure.what: (figure.measured, figure.row()[4]) for figure in section.figures}
    assert found["accept length after 5 min, held-out traces, lookahead 4"] == (pytest.approx(1.4), "met")
    assert found["accept length after 20 min, held-out traces, lookahead 4"] == (pytest.approx(1.6), "met")
    assert found["accept length after 60 min, held-out traces, lookahead 4"] == (pytest.approx(1.7), "missed")
    assert found["worst five minutes against no speculation"] == (0.97, "met")
    assert found["speedup, last five minutes"] == (1.3, "met")
    assert found["memory of everything, most"] == (pytest.approx(4200 / 1024), "missed")
    assert "1 versions were rejected" in section.title
    assert section.tables[1][1][-1] == "0.5"
    cut_short = SECTIONS["hour"]([starts, *windows[:2]])
    assert [f.measured for f in cut_short.figures if "60 min" in f.what] == [None]


def test_a_start_is_as_long_as_the_slowest() -> None:
    found = {"first_start_installing": 101.0, "first_start": 41.0, "later_starts": [5.2, 10.4, 4.9]}
    installing, first, later = SECTIONS["start"](found).figures
    assert (installing.measured, installing.row()[4]) == (101.0, "met")
    assert (first.measured, first.goal) == (41.0, None)
    assert (later.measured, later.row()[4], later.beside) == (10.4, "missed", "3 from 4.9 s on")


def test_the_vocabularys_shares_are_of_the_right_moments() -> None:
    section = SECTIONS["vocabulary"]({
        "model": "smollm2", "vocab_size": 49_152, "draft_vocab_size": 8_192, "num_answers": [50, 480],
        "num_others": 120, "num_tokens": 13_000, "num_exchanged": [343, 1929], "by_domain": {"chat": [0.84, 0.921]},
        "covered": {"ids_in_order": 0.874, "first": 0.932, "early": 0.951, "last": 0.963},
    })  # fmt: skip
    rows = {figure.what: figure.row()[3] for figure in section.figures}
    assert rows == {
        "of 13,000 tokens of 120 other answers, in the draft's vocabulary: the first choice": "93.2 %",
        "the same by the order of ids alone": "87.4 %",
        "after 50 answers of traffic": "95.1 % (343 exchanged)",
        "after 480 answers": "96.3 % (1,929 exchanged)",
    }
    assert section.tables == [[["domain", "first choice", "after 480 answers"], ["chat", "84.0 %", "92.1 %"]]]


def test_lookaheads_are_told_by_way_and_by_domain() -> None:
    none, ahead = (
        {"speed": s, "accept_length": length, "distinct_3grams": 0.5} for s, length in ((1.0, None), (1.3, 1.8))
    )
    same, other = ({"outputs": 24, "ties": n, "mismatches": n // 2} for n in (0, 2))
    ways = [
        {"lookahead": "0", **none, "greedy": same, "domains": {"sql": none}},
        {"lookahead": "2", **ahead, "greedy": other, "domains": {"sql": ahead}},
    ]
    section = SECTIONS["lookahead"]([{"machine": "a machine", "requests": 4}, *ways])
    assert section.figures[0].row()[1:] == ["0", "0", "1 (24 outputs, 2 exact ties)", "missed"]
    assert section.tables[0][1:] == [["0", "1.0x", "–", "0.5", "0", "0"], ["2", "1.3x", "1.80", "0.5", "2", "1"]]
    assert section.tables[1][1:] == [["sql", "1.0x at –", "1.3x at 1.80"]]


def test_plain_decoding_is_told_for_all_and_by_domain() -> None:
    batch = [
        Turns(
            {"transformers": [10.0], "aurora": [rate], "transformers_bf16": [20.0]}, [[1, 2, 3, 4]], Counter([verdict])
        )
        for rate, verdict in ((30.0, "equal"), (50.0, "forbidden"))
    ]
    found = sum(batch, Turns()).facts() | {"domains": {"chat": batch[0].facts(), "sql": batch[1].facts()}}
    section = SECTIONS["plain"]({"model": "smollm2", "batch_1": found, "batch_8": found})
    assert [figure.measured for figure in section.figures] == [4.0, 2.0, 4.0, 2.0]
    told = "equal texts: 1 of 2; of the others 1 part at an end token that `generate` was told not to say"
    assert told in section.figures[0].beside
    assert section.tables[0][1] == ["chat", "1", "10.0", "30.0", "20.0", "3.0x", "1.5x", "1 of 1", "1.0"]
    assert [row[:2] for row in section.tables[0][1:]] == [["chat", "1"], ["sql", "1"], ["chat", "8"], ["sql", "8"]]


def test_texts_are_judged_with_their_prompts() -> None:
    told: dict[str, Any] = {
        name: lambda batch, num, text=text: [text] for name, text in (("aurora", [3]), ("transformers", [4]))
    }
    turns = Turns()
    turns.add(told, [(1, 2)], 1, lambda ours, theirs: "tie" if (ours, theirs) == ((1, 2, 3), (1, 2, 4)) else "equal")
    assert turns.verdicts == {"tie": 1}


def test_a_speed_is_over_what_the_same_prompts_took_without_drafts() -> None:
    drafted = Tally(num_tokens=60, seconds=2.0, num_correct=16, num_drafted_steps=20, outputs=[(1, 2, 3, 4)])
    plain = Tally(num_tokens=40, seconds=2.0, outputs=[(1, 2, 3, 4)])
    assert drafted.facts(plain) == {"speed": 1.5, "accept_length": 1.8, "distinct_3grams": 1.0}
    assert plain.facts(plain) == {"speed": 1.0, "accept_length": None, "distinct_3grams": 1.0}


def test_texts_that_differ_are_judged_where_they_first_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """``margin`` in place of the target's: after two tokens it hesitates, after three it does not."""
    monkeypatch.setattr(bench_costs, "margin", lambda decoder, ids: {2: 1e-5, 3: 1.0}[len(ids)])
    decoder: Any = None
    plain = (1, 2, 3, 4)
    assert verdict(decoder, plain, plain) == "equal"
    assert verdict(decoder, plain, (1, 2, 9, 9)) == "tie"
    assert verdict(decoder, plain, (1, 2, 3, 9)) == "mismatch"
    assert verdict(decoder, plain, (1, 2, 3, 9), forbidden={4}) == "forbidden"
    drafted = [plain, (1, 2, 9, 9), (1, 2, 3, 9)]
    assert compared(decoder, [plain] * 3, drafted) == {"outputs": 3, "ties": 1, "mismatches": 1}


def test_every_benchmark_has_a_section() -> None:
    assert BENCHMARKS.keys() == SECTIONS.keys()


def test_lines_and_documents_are_read_alike() -> None:
    assert facts('{\n "a": 1\n}\n') == {"a": 1}
    assert facts('{"a": 1}\n{"b": 2}\n') == [{"a": 1}, {"b": 2}]


def test_a_part_takes_the_place_of_its_former_self_and_of_nothing_else() -> None:
    found = {"rows_per_second": 2500, "acknowledged": 40_000, "acknowledged_and_lost": 0, "stored_twice": 0}
    before = put(put("# Figures\n\nWords.\n", "live", "old live"), "ingest", r"old \1 ingest")
    after = put(before, "ingest", rendered(record("ingest", found)))
    assert after.startswith("# Figures\n\nWords.\n")
    assert "old live" in after
    assert "ingest -->\n## Traces into the console" in after
    assert "| 2,500 | met |" in after
    assert r"old \1 ingest" not in after
    assert after.count("<!-- bench:ingest -->") == after.count("<!-- /bench:ingest -->") == 1


def test_the_parts_of_the_file_are_benchmarks_that_exist() -> None:
    parts = re.findall(r"<!-- bench:(\w+) -->", RESULTS.read_text(encoding="utf-8"))
    assert set(parts) <= BENCHMARKS.keys()


def test_the_way_to_the_browser_has_a_row_for_each_chart_and_kind_of_task() -> None:
    def way(name: str, p95: float, **others: Any) -> dict[str, Any]:
        times = {"p50": 9.0, "p95": p95}
        return {"way": name, "messages": 80, "task_to_browser_ms": times, "drawn": 80, "drawn_ms": times | others}

    ways = [way("a report, on the loss", 28.0), way("counts, on the accept length", 240.0, others_p95=[501.0])]
    rows = [figure.row() for figure in SECTIONS["live"]({"in_sight": ["loss", "accept"], "ways": ways}).figures]
    assert [row[0] for row in rows] == [
        "task to browser, p95: a report, on the loss",
        "task to drawn chart, p95: a report, on the loss",
        "task to browser, p95: counts, on the accept length",
        "task to drawn chart, p95: counts, on the accept length",
    ]
    assert [row[4] for row in rows] == ["aim met", "aim met", "missed", "missed"]  # the worst run's verdict
    assert rows[3][3] == "240 ms (p50 9.0 ms, 80 messages; other runs 501.0 ms)"
