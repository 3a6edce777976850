"""Run requests on a real engine in the test's own thread or in its loop, and wait for them."""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from serving.engine.api import FinishedRequest, Part, Request, SamplingParams, ignore_control
from serving.engine.config import EngineConfig
from serving.engine.engine import Engine
from speculators import checkpoint
from speculators.eagle3 import Eagle3Draft


class Waiter:
    """Collects what a request reports."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.finished: FinishedRequest | None = None
        self.done = threading.Event()
        self.started = threading.Event()
        self.request_id = ""

    def on_tokens(self, tokens: tuple[int, ...]) -> None:
        assert tokens
        self.tokens += tokens
        self.started.set()

    def on_finish(self, finished: FinishedRequest) -> None:
        assert self.finished is None, "on_finish came twice"
        self.finished = finished
        self.done.set()

    def result(self, timeout: float = 60.0) -> FinishedRequest:
        assert self.done.wait(timeout), "the request did not finish"
        assert self.finished is not None
        return self.finished


def submit(engine: Engine, prompt: tuple[int, ...], *, is_control: bool = False, **sampling: Any) -> Waiter:
    waiter = Waiter()
    options = {
        name: sampling.pop(name) for name in ("domain", "keep_states", "request_id", "is_alone") if name in sampling
    }
    waiter.request_id = options.setdefault("request_id", uuid.uuid4().hex)
    engine.submit(
        Request(
            prompt=prompt,
            sampling=SamplingParams(**sampling),
            is_control=is_control,
            on_tokens=waiter.on_tokens,
            on_finish=waiter.on_finish,
            **options,
        )
    )
    return waiter


@contextmanager
def engine_of(
    target: Path, on_control: Callable[[str, Part], None] = ignore_control, **config: Any
) -> Iterator[Engine]:
    engine = Engine(target, EngineConfig(**{"max_len": 128, "max_requests": 4, "control_share": 0.0, **config}))
    engine.start(on_control)
    try:
        yield engine
    finally:
        engine.stop()


def output(finished: FinishedRequest) -> list[int]:
    return list(finished.tokens[finished.prompt_len :])


def of_plain_draft(
    model: Any, folder: Path, tokens: list[int], temperature: float, num: int
) -> tuple[list[float], list[float]]:
    """How sure first drafts of the last ``num`` tokens are and the chance that each passes, by transformers and the
    plain draft: all entries anew, no cache."""
    config, state = checkpoint.load(folder)
    draft, ids = Eagle3Draft.from_state(config, state), torch.tensor([tokens])
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
        features = torch.cat([out.hidden_states[i + 1] for i in config.aux_layer_ids], -1)[:, :-1]
        embeds = model.get_input_embeddings()(ids)[:, 1:]
        logits, _ = draft(embeds, draft.fuse(features), torch.arange(len(tokens) - 1)[None])
    said, target = logits[0, -1 - num : -1], out.logits[0, -1 - num : -1]  # entry i and position i + 1, of token i + 2
    sure = torch.softmax(said, -1).amax(-1).tolist()
    if temperature == 0:
        pairs = zip(said, tokens[-num:], strict=True)
        return sure, [float(draft.target_ids[row.argmax()] == token) for row, token in pairs]
    p, q = torch.softmax(said / temperature, -1), torch.softmax(target / temperature, -1)
    return sure, torch.minimum(p, q[:, draft.target_ids]).sum(-1).tolist()
