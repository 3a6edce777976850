"""Versions against each other and against no speculation, on the same prompts, interleaved inside one engine."""

from __future__ import annotations

import queue
import uuid
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from serving.engine.api import FinishedRequest, Request, SamplingParams
from serving.engine.config import EngineConfig
from serving.engine.engine import Engine
from serving.pocket.report import distinct_3gram_share
from tests.bench.measure import Served, accept_length, speedup


def serve(engine: Engine, prompt: tuple[int, ...], max_tokens: int, is_control: bool) -> FinishedRequest:
    """One greedy request, alone in the engine."""
    finished: queue.Queue[FinishedRequest] = queue.Queue()
    sampling = SamplingParams(max_tokens=max_tokens)
    engine.submit(
        Request(uuid.uuid4().hex, prompt, sampling, keep_states=False, is_control=is_control, on_finish=finished.put)
    )
    return finished.get(timeout=120)


def compare_versions(target_dir: Path, uris: dict[str, str], prompts: list[str], max_tokens: int) -> dict[str, Any]:
    """Speedup over the control and accept length of each version on ``prompts``, greedy.

    ``uris`` maps a name to a checkpoint directory. Raises AssertionError where a version's text differs from the
    control's (beyond what the engine's own tests allow, that is: at all).
    """
    tokenizer = Tokenizer.from_file(str(target_dir / "tokenizer.json"))
    engine = Engine(target_dir, EngineConfig(probe_steps=1))
    engine.start()
    drafts = {name: engine.load_draft(Path(uri)) for name, uri in uris.items()}
    served: dict[str, list[Served]] = {name: [] for name in uris}
    num_mismatches = 0
    for text in prompts:
        prompt = tuple(tokenizer.encode(text).ids)
        control = serve(engine, prompt, max_tokens, is_control=True)
        for number, (name, draft) in enumerate(drafts.items(), start=1):
            engine.swap(number, draft).result(30)
            finished = serve(engine, prompt, max_tokens, is_control=False)
            num_mismatches += finished.tokens != control.tokens
            served[name] += [as_served(control), as_served(finished)]
    engine.stop()
    result: dict[str, Any] = {"num_prompts": len(prompts), "num_mismatches": num_mismatches}
    for name, rows in served.items():
        result[name] = {"speedup": speedup(rows), "accept_length": accept_length(rows)}
    outputs = [row.output_ids for row in next(iter(served.values())) if row.is_control]
    result["distinct_3gram_share"] = round(distinct_3gram_share(outputs), 3)
    return result


def as_served(finished: FinishedRequest) -> Served:
    """The benchmark's view of a request."""
    return Served(
        at=finished.started_at,
        domain=finished.domain,
        version=finished.version,
        is_control=finished.version == 0,
        tokens_per_second=finished.num_accept_tokens / finished.decode_seconds,
        num_accept_tokens=finished.num_accept_tokens,
        num_verify_steps=finished.num_verify_steps,
        output_ids=finished.tokens[finished.prompt_len :],
    )
