"""From what a benchmark printed to figures with their goals, and tables with the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Facts = Any  # JSON of one benchmark: an object, or a list where it prints lines


@dataclass(frozen=True, slots=True)
class Goal:
    """At least this, and the aim."""

    at_least: float
    aim: float
    is_less_better: bool = False

    def verdict(self, measured: float | None) -> str:
        """``missed``, ``met`` or ``aim met``; what was never reached is missed."""
        if measured is None:
            return "missed"
        sign = -1 if self.is_less_better else 1
        if sign * measured >= sign * self.aim:
            return "aim met"
        return "met" if sign * measured >= sign * self.at_least else "missed"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: a number with its unit, and a goal where one was set."""

    what: str
    measured: float | None
    unit: str = ""
    goal: Goal | None = None
    beside: str = ""  # what else belongs to the number: an interval, a count
    others: tuple[float, ...] = ()  # what other runs of the same tree found: the verdict is the worst one's

    def row(self) -> list[str]:
        """what, at least, aim, measured, verdict"""
        least, aim = (self._said(self.goal.at_least), self._said(self.goal.aim)) if self.goal else ("", "")
        measured = "not reached" if self.measured is None else self._said(self.measured)
        verdict = self.goal.verdict(self._worst(self.goal)) if self.goal else ""
        return [self.what, least, aim, measured + (f" ({self.beside})" if self.beside else ""), verdict]

    def _worst(self, goal: Goal) -> float | None:
        if self.measured is None:
            return None
        return (max if goal.is_less_better else min)([self.measured, *self.others])

    def _said(self, value: float) -> str:
        number = f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"
        return f"{number}{self.unit}"


@dataclass(frozen=True, slots=True)
class Section:
    """What RESULTS.md says of one benchmark."""

    title: str
    figures: list[Figure]
    tables: list[list[list[str]]]  # each a header and its rows


def costs(facts: Facts) -> Section:
    ratio, text = facts["relative_to_a_plain_step"], facts["greedy_against_plain"]
    is_real = facts["model"] == "smollm2"  # the goals are about the real model
    figures = [
        Figure("verify of 5 tokens", ratio["verify_5_tokens"], "x", Goal(1.3, 1.0, True) if is_real else None),
        Figure("draft step", ratio["draft_step"], "x", Goal(0.15, 0.08, True) if is_real else None),
        Figure("verify of 9 tokens", ratio["verify_9_tokens"], "x"),
        Figure("whole step of lookahead 4", ratio["step_of_lookahead_4"], "x"),
        Figure("the same at batch 4, over a plain step of that batch", ratio["step_of_lookahead_4_batch_4"], "x"),
        Figure("a plain step", ratio["plain_step_ms"], " ms"),
        Figure(
            "greedy mismatches against plain decoding, random draft, lookahead 4", text["mismatches"], "",
            Goal(0, 0, True), f"{text['outputs']} outputs, {text['tokens']:,} tokens, {text['ties']} exact ties, "
            f"distinct 3-grams {text['distinct_3grams']}",
        ),
    ]  # fmt: skip
    rows = [
        [
            name,
            *(f"{found[key]:,}" for key in ("outputs", "tokens", "ties", "mismatches")),
            str(found["distinct_3grams"]),
        ]
        for name, found in text["domains"].items()
    ]
    header = ["greedy against plain, by domain", "outputs", "tokens", "exact ties", "mismatches", "distinct 3-grams"]
    title = f"What a step costs, relative to one plain token ({facts['model']})"
    return Section(title, figures, [[header, *rows]])


def plain(facts: Facts) -> Section:
    figures, rows = [], []
    for size, goal in ((1, Goal(1.1, 1.5)), (8, Goal(1.5, 3.0))):
        found = facts[f"batch_{size}"]
        rates = ", ".join(f"{name} {rate} tokens/s" for name, rate in found["tokens_per_second"].items())
        beside = f"{rates}; {_texts(found)}; distinct 3-grams {found['distinct_3grams']}"
        figures.append(Figure(f"batch {size}, float32 on both sides", found["ratio"], "x", goal, beside))
        figures.append(Figure(f"batch {size}, over transformers in bfloat16", found["ratio_bf16"], "x"))
        rows += [
            [name, str(size), *map(str, each["tokens_per_second"].values()), f"{each['ratio']}x",
             f"{each['ratio_bf16']}x", each["equal_texts"], str(each["distinct_3grams"])]
            for name, each in found["domains"].items()
        ]  # fmt: skip
    header = ["domain, tokens/s", "batch", *found["tokens_per_second"], "ratio", "over bf16", "equal texts",
              "distinct 3-grams"]  # fmt: skip
    return Section(f"Plain decoding over transformers' `generate` ({facts['model']})", figures, [[header, *rows]])


def _texts(found: dict[str, Any]) -> str:
    other = found["other_texts"]
    return (
        f"equal texts: {found['equal_texts']}; of the others {other['forbidden']} part at an end token that `generate` "
        f"was told not to say, {other['tie']} at an exact tie, {other['mismatch']} elsewhere"
    )


def vocabulary(facts: Facts) -> Section:
    """Shares of other answers' tokens that a draft can propose."""
    (early, last), (few, many), covered = facts["num_answers"], facts["num_exchanged"], facts["covered"]
    what = f"of {facts['num_tokens']:,} tokens of {facts['num_others']} other answers, in the draft's vocabulary"
    rows = [[name, *(f"{100 * share:.1f} %" for share in shares)] for name, shares in facts["by_domain"].items()]
    title = f"What {facts['draft_vocab_size']:,} of {facts['vocab_size']:,} tokens cover ({facts['model']})"
    return Section(title, [
        Figure(f"{what}: the first choice", 100 * covered["first"], " %"),
        Figure("the same by the order of ids alone", 100 * covered["ids_in_order"], " %"),
        Figure(f"after {early} answers of traffic", 100 * covered["early"], " %", beside=f"{few:,} exchanged"),
        Figure(f"after {last} answers", 100 * covered["last"], " %", beside=f"{many:,} exchanged"),
    ], [[["domain", "first choice", f"after {last} answers"], *rows]])  # fmt: skip


def day0(facts: Facts) -> Section:
    figures, before = [], None
    for name in ("day0", "shift"):
        phase = facts.get(name)
        if phase is None:
            continue
        what = f"day 0, {phase['domain']}" if name == "day0" else f"after the shift {before} -> {phase['domain']}"
        figures += [
            Figure(f"{what}: 1.0x within", phase["seconds_to_1.0x"], " s", Goal(60, 10, True)),
            Figure(f"{what}: 1.5x within", phase["seconds_to_1.5x"], " s", Goal(120, 20, True)),
            Figure(
                f"{what}: speedup at the end", phase["end_speedup"], "x", None,
                f"accept length {phase['end_accept_length']:.2f}, distinct 3-grams {phase['distinct_3gram_share']}",
            ),
        ]  # fmt: skip
        before = phase["domain"]
    compared = facts.get("frozen_against_adapted")
    if compared:
        frozen, adapted = compared["frozen"], compared["adapted"]
        ratio = adapted["speedup"] / frozen["speedup"]
        beside = (
            f"{compared['num_prompts']} held-out prompts: {frozen['speedup']:.2f}x at accept length "
            f"{frozen['accept_length']:.2f}, {adapted['speedup']:.2f}x at {adapted['accept_length']:.2f}; "
            f"{compared['num_mismatches']} mismatches"
        )
        figures.append(Figure("after the shift: adapted draft over the one frozen at it", ratio, "x", None, beside))
    return Section("Day 0 on the pocket target" + (" and a hard shift" if "shift" in facts else ""), figures, [])


def hour(facts: Facts) -> Section:
    starts, windows = facts[0], [line for line in facts if "after_seconds" in line]
    shares = next((line["distinct_3grams"] for line in facts if "distinct_3grams" in line), {})
    undone = [next(iter(line)) for line in facts if "because" in line]
    speeds = [line["all"]["speedup"] for line in windows if line["all"]["speedup"][0] is not None]
    last, worst = windows[-1], min(speeds)
    figures = [
        *(
            Figure(f"accept length after {minutes} min, held-out traces, lookahead 4", _at(windows, minutes), "", goal)
            for minutes, goal in ((5, Goal(1.3, 1.6)), (20, Goal(1.6, 2.2)), (60, Goal(1.9, 2.8)))
        ),
        Figure("worst five minutes against no speculation", worst[0], "x", Goal(0.95, 0.99), _within(worst)),
        Figure("speedup, last five minutes", speeds[-1][0], "x", Goal(1.25, 1.8), _within(speeds[-1])),
        Figure("memory of everything, most", max(w["memory_mib"] for w in windows) / 1024, " GB", Goal(4, 2.5, True)),
        Figure("first start, as the supervisor says", starts["first_start"], " s"),
        Figure("second start, as the supervisor says", starts["second_start"], " s"),
    ]
    head = ["after", "version", "held-out accept length (traces)", "accept length in service", "tokens/s", "without"]
    rows = [
        [
            f"{line['after_seconds'] / 60:.0f} min", f"v{line['live']}",
            f"{line['held_out'][0]} ({line['held_out'][2]})" if line["held_out"] else "–", *_speeds(line["all"]),
            f"{line['memory_mib'] / 1024:.1f} GB",
        ]
        for line in windows
    ]  # fmt: skip
    domains = [[name, *_speeds(found), str(shares.get(name, "–"))] for name, found in _domains(last)]
    by_domain = ["domain, last five minutes", *head[3:], "speedup", "distinct 3-grams"]
    told = f"{undone.count('rejected')} versions were rejected by the gate, {undone.count('rolled_back')} rolled back"
    return Section(
        f"The default demo's first hour ({told})",
        figures,
        [[[*head, "speedup", "memory"], *rows], [by_domain, *domains]],
    )


def _at(windows: list[Any], minutes: int) -> float | None:
    """Held-out accept length of the version that was live then."""
    found = next((line for line in windows if line["after_seconds"] >= 60 * minutes - 1), None)
    return found["held_out"][0] if found and found["held_out"] else None


def _within(speedup: Sequence[float | None]) -> str:
    return f"95 % interval {speedup[1]} to {speedup[2]}" if speedup[1] is not None else ""


def _speeds(found: dict[str, Any]) -> list[str]:
    value, low, high = found["speedup"]
    speedup = "–" if value is None else f"{value}x ({low} to {high})"
    return [str(found["accept_length"]), str(found["tokens_per_second"]), str(found["without"]), speedup]


def _domains(line: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, found)
        for name, found in line.items()
        if name != "all" and isinstance(found, dict) and "speedup" in found
    ]


def lookahead(facts: Facts) -> Section:
    requests, *ways = facts
    texts = {key: [way["greedy"][key] for way in ways] for key in ("outputs", "ties", "mismatches")}
    rows = [
        [way["lookahead"], *_ahead(way), str(way["distinct_3grams"]), str(ties), str(mismatches)]
        for way, ties, mismatches in zip(ways, texts["ties"], texts["mismatches"], strict=True)
    ]
    of_domains = [[name, *(" at ".join(_ahead(way["domains"][name])) for way in ways)] for name in ways[0]["domains"]]
    title = (
        f"The engine's choice of lookaheads, {requests['requests']} requests at once (SmolLM2, the hour's last draft)"
    )
    return Section(title, [
        Figure("greedy mismatches against no drafts, whichever lookahead",
               sum(texts["mismatches"]), "", Goal(0, 0, True),
               f"{sum(texts['outputs'][1:])} outputs, {sum(texts['ties'])} exact ties"),
    ], [
        [["lookahead", "speed over no drafts", "accept length", "distinct 3-grams", "exact ties", "mismatches"], *rows],
        [["domain: speed at accept length", *(way["lookahead"] for way in ways)], *of_domains],
    ])  # fmt: skip


def _ahead(found: dict[str, Any]) -> list[str]:
    length = found["accept_length"]
    return [f"{found['speed']}x", "–" if length is None else f"{length:.2f}"]


def start(facts: Facts) -> Section:
    later = facts["later_starts"]
    others = f"{len(later)} from {min(later)} s on"
    return Section("`make up` by the clock, to console and engine being ready (SmolLM2)", [
        Figure("first start, packages downloaded: they are installed, the kernels compiled, the model written",
               facts["first_start_installing"], " s", Goal(120, 60, True)),
        Figure("first start, packages installed before; the kernels are compiled, the model is fetched",
               facts["first_start"], " s"),
        Figure("later starts, the slowest", max(later), " s", Goal(10, 5, True), others),
    ], [])  # fmt: skip


def ingest(facts: Facts) -> Section:
    lost = facts["acknowledged_and_lost"] + facts["stored_twice"]
    return Section("Traces into the console", [
        Figure("trace rows ingested per second over the API", facts["rows_per_second"], "", Goal(2000, 10_000)),
        Figure("acknowledged rows lost, or stored twice, when the console is killed", lost, "", Goal(0, 0, True),
               f"of {facts['acknowledged']:,}"),
    ], [])  # fmt: skip


def live(facts: Facts) -> Section:
    """``others_p95``, where there were other runs: of one kind of figure, added by hand to what is kept of a run."""
    figures = []
    for way in facts["ways"]:
        for what, kind, goal in (
            ("task to browser", "task_to_browser_ms", Goal(100, 30, True)),
            ("task to drawn chart", "drawn_ms", Goal(500, 300, True)),
        ):
            found = way[kind]
            others = tuple(found.get("others_p95", ()))
            said = f"; other runs {' and '.join(map(str, others))} ms" if others else ""
            beside = f"p50 {found['p50']} ms, {way['messages']} messages{said}"
            figures.append(Figure(f"{what}, p95: {way['way']}", found["p95"], " ms", goal, beside, others))
    return Section(f"From a task to the browser ({len(facts['in_sight'])} charts in sight)", figures, [])


def watchers(facts: Facts) -> Section:
    least = min(facts["runs"], key=lambda run: run["num_in_time"])
    header = ["messages a second", "watchers in time", "publish to arrival, p50", "p95", "most",
              "parts that the server draws, p50", "p95", "most", "change of state on the page, p50", "p95", "most",
              "anything else on the page, p50", "p95", "most", "frames a second and watcher, most"]  # fmt: skip
    kinds = ("latency_ms", "parts_ms", "change_age_ms", "age_ms")
    rows = [
        [
            f"{run['messages_a_second']:g}",
            f"{run['num_in_time']} of {facts['watchers']}",
            *(f"{run[kind][place]} ms" for kind in kinds for place in ("p50", "p95", "most")),
            str(run["most_frames_a_second"]),
        ]
        for run in facts["runs"]
    ]
    lost, sent = (sum(run[name] for run in facts["runs"]) for name in ("messages_lost", "messages_each"))
    return Section("Watchers on one web process", [
        Figure("watchers who each see the newest state at most 1 s late (95 % of their messages and changes of state)",
               least["num_in_time"], "", Goal(300, 1000), f"least: {least['messages_a_second']:g} messages a second"),
        Figure("messages lost", lost, "", Goal(0, 0, True), f"of {sent} to each"),
    ], [[header, *rows]])  # fmt: skip


def pages(facts: Facts) -> Section:
    worst, found = facts["pages"][0], facts["rows"]
    heaviest = max(facts["first_view_bytes"].items(), key=lambda each: each[1])
    rows = [
        [
            f"`{p['path']}`",
            f"{p['p50_ms']} ms",
            f"{p['p95_ms']} ms",
            str(p["num_queries"]),
            f"{p['bytes_sent'] / 1024:.0f} KiB",
        ]
        for p in facts["pages"][:10]
    ]
    counts = ", ".join(f"{found[name]:,} {name}" for name in ("targets", "versions", "windows", "traces"))
    return Section(f"Pages and API on a full database ({counts})", [
        Figure(f"p95 server time, the slowest of {len(facts['pages'])} addresses", worst["p95_ms"], " ms",
               Goal(150, 50, True), f"{len(facts['over_limit'])} over 150 ms, {facts['over_aim']} over 50 ms"),
        Figure(f"weight of a first view, packed, the heaviest of {len(facts['first_view_bytes'])} pages",
               heaviest[1] / 1e6, " MB", Goal(1.0, 0.6, True), f"`{heaviest[0]}`"),
    ], [[["the slowest addresses", "p50", "p95", "queries", "sent"], *rows]])  # fmt: skip


def sglang(facts: Facts, title: str = "SGLang on a CPU") -> Section:
    found = {key: value for line in facts for key, value in line.items()}
    swap_range = " to ".join(map(str, found["p99_ratio_interval"]))
    loss, lost = found["interval_percent"], "throughput lost to capture, 16 clients: upper end of the 95 % interval"
    steps = found["num_verify_steps"]
    return Section(title, [
        Figure(lost, loss[1], " %", Goal(5, 2, True),
               f"median {found['throughput_lost_percent']} %, interval from {loss[0]} %, {found['rounds']} rounds"),
        Figure("token gap p99 of 8 streams, during swaps over at rest", found["p99_ratio"], "x", Goal(1.2, 1.0, True),
               f"95 % interval {swap_range}; {found['swaps']} swaps"),
        Figure("streams broken off by these swaps", found["num_dropped"], "", Goal(0, 0, True),
               f"of {found['num_streams']:,}"),
        Figure("accept length on SGLang and on our engine, a trained draft: difference",
               100 * abs(found["sglang"] / found["embedded"] - 1), " %", Goal(1, 0, True),
               f"{found['sglang']} and {found['embedded']}; {steps[0]:,} and {steps[1]:,} verify steps"),
    ], [])  # fmt: skip


SECTIONS: dict[str, Callable[[Facts], Section]] = {
    "start": start,
    "costs": costs,
    "costs_pocket": costs,
    "plain": plain,
    "vocabulary": vocabulary,
    "hour": hour,
    "lookahead": lookahead,
    "day0_sql_to_json_tools": day0,
    "day0_arithmetic_to_sql": day0,
    "ingest": ingest,
    "live": live,
    "watchers": watchers,
    "pages": pages,
    "sglang": sglang,
    "sglang_gpu": functools.partial(sglang, title="SGLang on a GPU"),
}
