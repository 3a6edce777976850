"""A console and an engine that are real servers and threads, with scripted answers."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from serving.engine.api import (
    EngineStats,
    FinishedRequest,
    FinishReason,
    LoadedDraft,
    Part,
    Probe,
    Request,
    RequestError,
    SwapOutcome,
    ignore_control,
)
from serving.engine.pins import Pins
from speculators import checkpoint
from speculators.records import StepRecord


def wait_until(is_true: Callable[[], Any], seconds: float = 60) -> None:
    """Fail when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


@dataclass
class FakeConsole:
    """Keeps what it acknowledged; ``status`` and ``desired`` are its scripted answers."""

    port: int
    status: int = 200
    desired: dict[str, Any] = field(default_factory=dict)
    traffic: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, Any]] = field(default_factory=list)  # acknowledged ones
    refused: list[tuple[str, Any]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, path: str) -> list[Any]:
        return [payload for called, payload in list(self.calls) if called == path]

    def answer(self, path: str, payload: Any) -> tuple[int, Any]:
        if self.status >= 300:
            self.refused.append((path, payload))
            return self.status, {"title": "scripted failure", "status": self.status}
        self.calls.append((path, payload))
        if path == "/api/v1/traffic":
            return 200, self.traffic
        return 200, self.desired if path.endswith("/observed") else {"accepted": 1, "duplicates": 0}


def _handler(console: FakeConsole) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def do_GET(self) -> None:
            self._answer(None)

        def _answer(self, payload: Any) -> None:
            console.tokens.add(self.headers.get("authorization", ""))
            status, answer = console.answer(self.path, payload)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


class _Listener(ThreadingHTTPServer):
    """Knows its open connections, which would go on being answered after it has stopped listening."""

    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was cut says nothing."""

    def cut(self) -> None:
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class ConsoleServer:
    """A console that can be stopped and started again on its port."""

    def __init__(self) -> None:
        self.console = FakeConsole(0)
        self._server: _Listener | None = None
        self.start()

    def start(self) -> None:
        self._server = _Listener(("127.0.0.1", self.console.port), _handler(self.console))
        self.console.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._server = None


@dataclass
class FakeDraft:
    sha256: str


class FakeEngine:
    """Answers every request with ``script`` (token ids, in steps of two), or an endless count when it is empty."""

    aux_layer_ids = (0, 1, 2)
    max_len = 64

    def __init__(self, script: list[int] | None = None, step_seconds: float = 0.0) -> None:
        self.script = script or []
        self.step_seconds = step_seconds
        self.is_alive = True
        self.pins = Pins()
        self.version, self.sha256 = 0, ""
        self.previous: list[tuple[int, str]] = []
        self.probe: Probe | None = None
        self.reverted_from: int | None = None
        self.policies: list[tuple[float | None, int | None]] = []
        self.loads: list[Path] = []
        self.cancelled: dict[str, FinishReason] = {}
        self.running: dict[str, Request] = {}
        self.submitted: list[Request] = []
        self.finished: list[FinishedRequest] = []
        self.digest_in_memory: str | None = None  # set: what a broken swap would leave
        self.fails: Exception | None = None  # set: what loading a draft raises

    def start(self, on_control: Callable[[str, Part], None] = ignore_control) -> None: ...

    def stop(self, timeout: float = 10.0) -> None:
        self.is_alive = False

    def submit(self, request: Request) -> None:
        if request.prompt[0] == 63:
            raise RequestError("token 63 is not liked")
        self.submitted.append(request)
        self.running[request.request_id] = request
        threading.Thread(target=self._decode, args=(request,), daemon=True).start()

    def cancel(self, request_id: str, reason: FinishReason = "cancelled") -> None:
        if request_id in self.running:
            self.cancelled[request_id] = reason

    def load_draft(self, directory: Path, expected_sha256: str | None = None) -> LoadedDraft:
        self.loads.append(directory)
        if self.fails is not None:
            raise self.fails
        _, state = checkpoint.load(directory, expected_sha256)
        return FakeDraft(self.digest_in_memory or checkpoint.state_digest(state))

    def swap(self, version: int, draft: LoadedDraft | None, *, min_accept_length: float = 0.0) -> Future[SwapOutcome]:
        self.previous.append((self.version, self.sha256))
        self.version, self.sha256 = version, draft.sha256 if draft else ""
        self.probe, self.reverted_from = Probe(version, 0, 0, False), None
        return self._outcome()

    def revert(self, detail: str) -> Future[SwapOutcome]:
        self.reverted_from = self.version
        self.version, self.sha256 = self.previous.pop()
        return self._outcome()

    def set_policy(self, *, control_share: float | None = None, max_lookahead: int | None = None) -> None:
        if max_lookahead is not None and max_lookahead > 16:
            raise ValueError(f"max_lookahead={max_lookahead}: must lie between 0 and 16")
        self.policies.append((control_share, max_lookahead))

    def stats(self) -> EngineStats:
        return EngineStats(
            version=self.version, sha256=self.sha256, previous=None, num_running=len(self.running), num_waiting=0,
            num_finished=len(self.finished), num_verify_steps=0, num_proposed_drafts=0, num_correct_drafts=0,
            num_accept_tokens=0, num_errors=0, probe=self.probe, reverted_from=self.reverted_from,
            revert_detail="accept length 1.01 < 1.10", domains=(),
        )  # fmt: skip

    def _outcome(self) -> Future[SwapOutcome]:
        future: Future[SwapOutcome] = Future()
        future.set_result(SwapOutcome(self.version, self.sha256, self.previous[-1][0] if self.previous else None, 1.5))
        return future

    def _decode(self, request: Request) -> None:
        script = self.script or list(range(2, 60))
        tokens = script[: request.sampling.max_tokens]
        request.on_tokens(tuple(tokens[:1]))
        given, steps, reason = tokens[:1], [], "length" if len(tokens) < len(script) else "stop"
        while len(given) < len(tokens):
            time.sleep(self.step_seconds)
            if request.request_id in self.cancelled:
                reason = self.cancelled[request.request_id]
                break
            new = tokens[len(given) : len(given) + 2]
            given += new
            steps.append(StepRecord((new[0], 1, 1), len(new) - 1))
            request.on_step(steps[-1])
            request.on_tokens(tuple(new))
        del self.running[request.request_id]
        finished = make_finished(request, given, tuple(steps), reason)  # type: ignore[arg-type]
        self.finished.append(finished)
        request.on_finish(finished)


def make_finished(
    request: Request, generated: list[int], steps: tuple[StepRecord, ...], reason: FinishReason = "stop"
) -> FinishedRequest:
    """What an engine of 3 aux layers and hidden size 4 would report."""
    tokens = (*request.prompt, *generated)
    kept = request.keep_states
    return FinishedRequest(
        request_id=request.request_id, domain=request.domain, version=7, tokens=tokens,
        prompt_len=len(request.prompt), temperature=request.sampling.temperature, finish_reason=reason,
        started_at=time.time(), prefill_seconds=0.01, decode_seconds=0.25, mean_batch_size=1.5, lookahead=3,
        steps=steps,
        states=torch.full((len(tokens) - 1, 12), 0.5, dtype=torch.float16) if kept else None,
        final=torch.full((len(tokens) - 1, 4), 0.25, dtype=torch.float16) if kept else None,
    )  # fmt: skip
