"""SGLang on this machine: throughput with and without capture, token gaps around swaps, accept length against ours.

Two servers run at once, the plugin capturing on one and absent on the other, and take turns: each round serves the same
prompts on both, in an order that alternates, so that a noisy machine disturbs both sides alike.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from serving.engine.api import Request, SamplingParams
from serving.engine.config import EngineConfig
from serving.engine.engine import Engine
from serving.pocket.expand import expand
from serving.traffic.domains.registry import get_domain
from tests.bench.measure import interval
from tests.bench.ring import wait_for
from tests.sglang.conftest import Drafts, Judge, Replica
from tests.sglang.server import LOOKAHEAD, Server, stream
from tests.sglang.trained import DOMAINS, trained_draft

CLIENTS = 16
STREAMS = 8
STREAMED_TOKENS = 100
WARM_UP_SECONDS = 5.0


def batch_seconds(server: Server, prompts: list[list[int]], max_tokens: int) -> float:
    """All prompts at once, one client each."""
    threads = [threading.Thread(target=server.generate, args=(prompt, max_tokens)) for prompt in prompts]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def throughput(
    with_capture: Server, without: Server, prompts: list[list[int]], rounds: int, num: int
) -> dict[str, Any]:
    """Tokens per second of both, and what capture costs: the median over rounds of the ratio within a round.

    The interval is of that median, by bootstrap over the rounds.
    """
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    for number in range(rounds + 1):
        chosen = [prompts[(number * CLIENTS + i) % len(prompts)] for i in range(CLIENTS)]
        sides = [("with", with_capture), ("without", without)]
        for name, server in sides if number % 2 else reversed(sides):
            took = batch_seconds(server, chosen, num)
            if number:  # the first round warms up
                seconds[name].append(took)
    ratios = [b / a for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    low, high = interval(ratios, statistics.median)
    tokens = CLIENTS * num
    return {
        "rounds": rounds,
        "tokens_per_second_with": round(tokens / statistics.median(seconds["with"]), 1),
        "tokens_per_second_without": round(tokens / statistics.median(seconds["without"]), 1),
        "throughput_lost_percent": round(100 * (1 - statistics.median(ratios)), 2),
        "interval_percent": [round(100 * (1 - high), 2), round(100 * (1 - low), 2)],
    }


def read_streams(url: str, prompts: list[list[int]], is_over: Any, results: Any) -> None:
    """Keep one stream per prompt open until ``is_over``; (end, gap in ms) between pieces go to ``results``, with the
    number of streams and of those that broke off.

    Runs in a process of its own: the console and the one who asks for swaps must not delay the clocks.
    """
    found: list[tuple[float, float]] = []
    whole: list[bool] = []

    def read(prompt: list[int]) -> None:
        while not is_over.is_set():
            pieces: list[tuple[float, int]] = []
            with contextlib.suppress(httpx.HTTPError):
                pieces.extend(stream(url, prompt, STREAMED_TOKENS))
            whole.append(bool(pieces) and pieces[-1][1] == STREAMED_TOKENS)
            times = [at for at, _ in pieces]
            found.extend((b, 1e3 * (b - a)) for a, b in itertools.pairwise(times))

    threads = [threading.Thread(target=read, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((found, len(whole), whole.count(False)))


def gaps(replica: Replica, drafts: Drafts, prompts: list[list[int]], num_swaps: int) -> dict[str, Any]:
    """Gaps between pieces of 8 streams while versions are swapped, and between swaps, in one run.

    "During" is from the console's wish until the replica's report that the version is proved, "at rest" as long again
    after it; the interval of the ratio is by bootstrap over these turns.
    """
    context = multiprocessing.get_context("spawn")
    is_over, results = context.Event(), context.Queue()
    arguments = (replica.server.url, prompts[:STREAMS], is_over, results)
    reader = context.Process(target=read_streams, args=arguments)
    reader.start()
    time.sleep(WARM_UP_SECONDS)
    started, windows = time.monotonic(), []
    for i in range(num_swaps):
        begin = time.monotonic()
        replica.swap(100 + i, drafts.random(i % 2))
        windows.append((begin, time.monotonic()))
        time.sleep(windows[-1][1] - begin)
    is_over.set()
    pieces, num_streams, num_dropped = results.get(timeout=60)
    found = [(at, gap) for at, gap in pieces if at > started]
    reader.join()
    turns = [
        (
            [gap for at, gap in found if begin <= at <= end],
            [gap for at, gap in found if end < at <= 2 * end - begin],
        )
        for begin, end in windows
    ]
    during, rest = [gap for turn in turns for gap in turn[0]], [gap for turn in turns for gap in turn[1]]
    return {
        "swaps": num_swaps,
        "num_streams": num_streams,
        "num_dropped": num_dropped,
        "num_gaps": {"during": len(during), "at rest": len(rest)},
        **{f"p{share:.0%}"[:-1]: {"during": p(during, share), "at rest": p(rest, share)} for share in (0.5, 0.9, 0.99)},
        "p99_ratio": round(p99_ratio(turns), 3),
        "p99_ratio_interval": [round(each, 3) for each in interval(turns, p99_ratio, draws=500)],
    }


def p99_ratio(turns: Sequence[tuple[list[float], list[float]]]) -> float:
    """Of the gaps during swaps over those at rest, all turns together."""
    during, rest = [gap for turn in turns for gap in turn[0]], [gap for turn in turns for gap in turn[1]]
    return p(during, 0.99) / p(rest, 0.99)


def p(values: list[float], share: float) -> float:
    return round(sorted(values)[int(len(values) * share)], 1)


def our_accept_length(target: Path, draft: Path, prompts: list[list[int]], num: int) -> tuple[int, int]:
    """(accept tokens, verify steps) of the embedded engine at the same lookahead, greedy, through end tokens."""
    engine = Engine(target, EngineConfig(max_requests=8, max_len=512, fixed_lookahead=LOOKAHEAD, control_share=0.0))
    engine.start()
    engine.swap(1, engine.load_draft(draft)).result()
    done: list[Any] = []
    for i, prompt in enumerate(prompts):
        sampling = SamplingParams(max_tokens=num, ignore_eos=True)
        engine.submit(Request(f"{i:032x}", tuple(prompt), sampling, on_finish=done.append, keep_states=False))
    wait_for("our engine", lambda: len(done) == len(prompts), 300)
    engine.stop()
    return sum(f.num_accept_tokens for f in done), sum(f.num_verify_steps for f in done)


def accept_lengths(replica: Replica, target: Path, draft: Path, prompts: list[list[int]], num: int) -> dict[str, Any]:
    """Same target, draft and prompts on both engines."""
    replica.swap(90, draft)
    tokens = steps = 0
    for prompt in prompts:
        meta = replica.server.generate(prompt, num)["meta_info"]
        tokens += meta["completion_tokens"] - 1
        steps += meta["spec_verify_ct"]
    ours = our_accept_length(target, draft, prompts, num)
    return {
        "prompts": len(prompts),
        "sglang": round(tokens / steps, 4),
        "embedded": round(ours[0] / ours[1], 4),
        "num_verify_steps": [steps, ours[1]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=64)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--draft", type=Path, help="of the pocket target, for the accept lengths; else one is trained")
    parser.add_argument("--only", choices=["throughput", "swaps", "accept"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        target = expand(root / "pocket")
        drafts, judge = Drafts(root / "drafts", target), Judge(target)
        prompts = [
            judge.tokenizer.encode(each.text)
            for name in DOMAINS
            for each in itertools.islice(get_domain(name).prompts(11, "heldout"), CLIENTS)
        ]
        replica = Replica(root / "with", target, drafts.random(0), root / "state")
        without = Server(root / "without", target, drafts.random(0), None)
        with replica.running():
            replica.swap(1, drafts.random(0))
            if given.only in (None, "throughput"):
                try:
                    without.start()
                    figures = throughput(replica.server, without, prompts, given.rounds, given.tokens)
                finally:
                    without.stop()
                print(json.dumps(figures), flush=True)
                print(json.dumps({"traces": len(replica.traces()), **replica.observed()}), flush=True)
            if given.only in (None, "swaps"):
                print(json.dumps(gaps(replica, drafts, prompts, given.swaps)), flush=True)
            if given.only in (None, "accept"):
                draft = given.draft or trained_draft(target, root / "trained")
                print(json.dumps(accept_lengths(replica, target, draft, prompts[::2], 40)), flush=True)


if __name__ == "__main__":
    main()
