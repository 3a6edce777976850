"""Real SGLang servers with the pocket target, a scripted console, and transformers as the judge."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from serving.pocket.expand import expand
from serving.traffic.domains.registry import POCKET
from speculators import checkpoint
from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft
from speculators.records import DesiredState, TraceRecord
from tests.bench.ring import wait_for
from tests.sglang.server import LOOKAHEAD, PYTHON, Server
from tests.sglang.trained import trained_draft
from tests.unit.serving.fakes import ConsoleServer

PROMPTS = {name: next(domain.prompts(11, "heldout")).text for name, domain in POCKET.items()}


def pytest_collection_modifyitems(items):
    if not PYTHON.exists():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="no .venv-sglang: make sglang-cpu"))


def pytest_terminal_summary(terminalreporter):
    """What the tests have measured on the way: a green run says it too."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value} ({report.nodeid})")


@pytest.fixture(scope="session")
def target(tmp_path_factory) -> Path:
    return expand(tmp_path_factory.mktemp("sglang") / "pocket")


class Judge:
    """transformers' fp32 model of the target."""

    def __init__(self, target: Path) -> None:
        torch.set_num_threads(1)
        self.model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(target)

    def prompt(self, domain: str) -> list[int]:
        return self.tokenizer.encode(PROMPTS[domain])

    @torch.inference_mode()
    def greedy(self, prompt: list[int], num: int) -> list[int]:
        """What the target alone writes, through end-of-sequence tokens."""
        ids, past, out = torch.tensor([prompt]), None, []
        for _ in range(num):
            answer = self.model(ids, past_key_values=past, use_cache=True)
            past = answer.past_key_values
            out.append(int(answer.logits[0, -1].argmax()))
            ids = torch.tensor([[out[-1]]])
        return out

    @torch.inference_mode()
    def states(self, tokens: list[int], layers: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """(states [T, K*Ht], final [T, Ht]) of all tokens, fp32."""
        answer = self.model.model(torch.tensor([tokens]), output_hidden_states=True)
        kept = torch.cat([answer.hidden_states[i + 1][0] for i in layers], -1)
        return kept, answer.last_hidden_state[0]


@pytest.fixture(scope="session")
def judge(target) -> Judge:
    return Judge(target)


class Drafts:
    """Checkpoints of random drafts, whose tokens hardly ever pass, and of one that has learnt a little."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        self.target = target
        self.config = DraftConfig.for_target(json.loads((target / "config.json").read_text()))

    def random(self, seed: int) -> Path:
        directory = self.folder / f"seed-{seed}"
        if not directory.exists():
            checkpoint.save(directory, self.config, Eagle3Draft(self.config, seed).state_dict())
        return directory

    def good(self) -> Path:
        directory = self.folder / "good"
        return directory if directory.exists() else trained_draft(self.target, directory, 6, 8.0)


@pytest.fixture(scope="session")
def drafts(tmp_path_factory, target) -> Drafts:
    return Drafts(tmp_path_factory.mktemp("drafts"), target)


class Replica:
    """A server with the plugin, and the console that it reports to."""

    def __init__(
        self, folder: Path, target: Path, draft: Path, state_dir: Path, *options: str, **environment: str
    ) -> None:
        self.console = ConsoleServer()
        self.state_dir = state_dir
        self.generation = 0
        self.server = Server(folder, target, draft, {
            "AURORA_CONSOLE_URL": self.console.console.url,
            "AURORA_REPLICA_TOKEN": "token",
            "AURORA_TARGET_SLUG": "demo",
            "AURORA_REPLICA": "demo-1",
            "AURORA_STATE_DIR": str(state_dir),
            **environment,
        }, *options)  # fmt: skip
        self.set_desired(0, draft)
        self.console.console.desired["generation"] = 0

    def set_desired(self, version: int, draft: Path | None, **more: Any) -> int:
        """Desire a version; returns its generation."""
        self.generation += 1
        sha256 = hashlib.sha256((draft / checkpoint.WEIGHTS).read_bytes()).hexdigest() if draft else ""
        desired = DesiredState("demo", self.generation, version, str(draft or ""), sha256, LOOKAHEAD, 0.0, 0.0)
        self.console.console.desired = dataclasses.replace(desired, **more).to_json()
        return self.generation

    def observed(self) -> dict[str, Any]:
        """The latest report."""
        found: dict[str, Any] = self.console.console.of("/api/v1/ingest/observed")[-1]
        return found

    def swap(self, version: int, draft: Path | None, state: str = "serving", **more: Any) -> dict[str, Any]:
        """Desire a version and wait until the replica reports that it has acted on it."""
        generation = self.set_desired(version, draft, **more)

        def done() -> dict[str, Any] | None:
            last = self.observed()
            return last if last["generation"] == generation and last["state"] == state else None

        found: dict[str, Any] = wait_for(f"version {version} {state}", done, 60, every=0.02)
        return found

    def traces(self) -> dict[str, TraceRecord]:
        """Every announced trace, by id."""
        sent = self.console.console.of("/api/v1/ingest/segments")
        return {t["trace_id"]: TraceRecord.from_json(t) for payload in sent for t in payload["traces"]}

    def trace(self, rid: str) -> tuple[TraceRecord, torch.Tensor, torch.Tensor]:
        """(trace, states, final) of a request, waiting for its announcement."""
        wait_for(f"trace {rid}", lambda: rid in self.traces(), 60)
        [uri] = [
            payload["segment"]["uri"]
            for payload in self.console.console.of("/api/v1/ingest/segments")
            if any(t["trace_id"] == rid for t in payload["traces"])
        ]
        tensors = load_file(uri)
        return self.traces()[rid], tensors[f"{rid}.states"], tensors[f"{rid}.final"]

    def counts(self) -> list[dict[str, Any]]:
        return [c for payload in self.console.console.of("/api/v1/ingest/counts") for c in payload["counts"]]

    @contextmanager
    def running(self, seconds: float = 180.0) -> Iterator[Self]:
        """From its first report, for which its server has ``seconds`` to start, to the stop of both."""
        try:
            self.server.start(seconds)
            wait_for("the first report", lambda: self.console.console.of("/api/v1/ingest/observed"), 60)
            yield self
        finally:
            self.server.stop()
            self.console.stop()


@pytest.fixture(scope="module")
def replica(tmp_path_factory, target, drafts):
    folder = tmp_path_factory.mktemp("replica")
    with Replica(folder, target, drafts.random(0), folder / "state").running() as found:
        found.swap(1, drafts.random(0))
        yield found
